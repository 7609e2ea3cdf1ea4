"""Tiles against the whole with the embedded model: seams, PSNR at equal noise, and the memory of a 4096x3072 photograph.

python tests/benchmarks/tiling.py [--big] [--steps 3]     # --big: 4096x3072 within 4 GB, half an hour on two cores

A seam figure is the mean gradient magnitude at the tiles' borders over that elsewhere, divided by the same of the untiled result,
less 1: 0 is no seam, and 5% is allowed. Exits with 1 where a bound is passed.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
BIG, BOUND = (3072, 4096), 4e9
SIDE, TILE, OVERLAP = 512, 256, 128


def pictures() -> dict:
    """A smooth gradient and three photographs of 512x512 pixels."""
    import numpy as np

    from diffbir_jax.imaging.reading import read_image
    from diffbir_jax.imaging.resizing import resize

    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    named = {"gradient": np.stack([0.2 + 0.6 * x, 0.2 + 0.6 * y, 0.8 - 0.3 * (x + y)], -1).astype(np.float32)}
    for name in ("astronaut_01", "china_01", "chelsea_01"):
        photo = resize(read_image(TESTS / "data" / "photos" / f"{name}.webp"), (SIDE, SIDE))
        named[name] = np.clip(photo, 0, 1)
    return named


def roughness(image, border: bool) -> float:
    """Mean gradient magnitude within 2 pixels of the tiles' borders and of the middles of their overlaps, or elsewhere."""
    import numpy as np

    gradient = np.hypot(*np.gradient(image.mean(-1)))
    at = np.zeros(SIDE, bool)
    for start in range(0, SIDE - TILE + 1, TILE - OVERLAP):
        for place in (start, start + OVERLAP // 2, start + TILE - OVERLAP // 2, start + TILE):
            at[max(place - 2, 0) : place + 2] = 2 < place < SIDE - 2
    mask = at[:, None] | at[None]
    return float(gradient[mask if border else ~mask].mean())


def seam(tiled, whole) -> float:
    """How much rougher borders are than elsewhere, beyond what the untiled result is there."""
    return roughness(tiled, True) / roughness(tiled, False) / (roughness(whole, True) / roughness(whole, False)) - 1


def compare(steps: int) -> bool:
    """Prints a row a picture; whether all bounds hold."""
    from diffbir_jax import RestoreOptions, load_model, restore_images
    from diffbir_jax.metrics.fidelity import psnr

    model, kept = load_model("tiny"), True
    sizes = {f"{stage}_{what}": n for stage in ("stage1", "diffusion") for what, n in (("tile", TILE), ("overlap", OVERLAP))}
    print("| picture | stage | PSNR to the whole (dB) | seam |\n| --- | --- | --- | --- |", flush=True)
    for name, image in pictures().items():
        for stage, more in (("stage 1", {"stage1_only": True}), ("all", {"steps": steps, "strength": 1.0})):
            whole, tiled = (
                restore_images(model, [image], RestoreOptions(tiles=tiles, vae_tile=TILE, **sizes, **more))[0]
                for tiles in ("off", "on")
            )
            figure, rougher = psnr(tiled, whole), seam(tiled, whole)
            kept &= figure >= 40 and abs(rougher) <= 0.05
            print(f"| {name} | {stage} | {figure:.1f} | {rougher:+.2%} |", flush=True)
    return kept & autoencoder(model)


def autoencoder(model) -> bool:
    """Layer by layer against the whole network."""
    import jax
    import numpy as np

    from diffbir_jax.metrics.fidelity import psnr
    from diffbir_jax.models.layerwise import decode_layerwise, encode_layerwise

    net, params = model.nets["autoencoder"], model.params["autoencoder"]
    image = pictures()["china_01"][None]
    encode, decode = (jax.jit(lambda x, m=method: net.apply({"params": params}, x, method=m)) for method in ("encode", "decode"))
    latent, ours = np.asarray(encode(image)), encode_layerwise(net, params, image, TILE)
    decoded = psnr(decode_layerwise(net, params, latent, TILE), np.asarray(decode(latent)))
    encoded = psnr(ours / np.ptp(latent), latent / np.ptp(latent))
    print(f"| china_01 | encode | {encoded:.1f} | |\n| china_01 | decode | {decoded:.1f} | |")
    return min(encoded, decoded) >= 60


def big(steps: int) -> bool:
    """Restores a photograph of 4096x3072 in a process of its own; whether it kept within 4 GB."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, __file__, "--restore-big", "--steps", str(steps)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    peak = 1024 * usage.ru_maxrss
    print(f"| {BIG[1]}x{BIG[0]}, {steps} steps | {time.perf_counter() - begun:.0f} s | {peak / 1e9:.2f} GB of {BOUND / 1e9:.0f} |")
    return process.returncode == 0 and peak < BOUND


def restore_big(steps: int) -> None:
    import cv2

    from diffbir_jax import RestoreOptions, load_model, restore_images

    photo = cv2.resize(pictures()["china_01"], BIG[::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1)
    [image] = restore_images(load_model("tiny"), [photo], RestoreOptions(steps=steps, strength=1.0, memory_budget="4GB"))
    assert image.shape == (*BIG, 3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--big", action="store_true")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--restore-big", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.restore_big:
        restore_big(args.steps)
        return 0
    return 0 if (big if args.big else compare)(args.steps) else 1


if __name__ == "__main__":
    sys.exit(main())
