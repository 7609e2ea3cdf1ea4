"""Measures a model on the 26 crops of tests/data/photos, none of which it was trained on: the table and the picture of README.

python tests/benchmarks/quality.py [--model tiny] [--recipe codeformer] [--guided 20000] [--sheet SHEET.jpg]
"""

import argparse
import zlib
from pathlib import Path

import cv2
import numpy as np

from diffbir_jax import RestoreOptions, load_model, restore_images
from diffbir_jax.degradation.operations import apply
from diffbir_jax.degradation.recipes import draw, find_recipe
from diffbir_jax.imaging.paths import images_in
from diffbir_jax.imaging.reading import read_image
from diffbir_jax.metrics.fidelity import psnr

PHOTOS = Path(__file__).parents[1] / "data" / "photos"
SHOWN = ("astronaut_01", "red_panda_01", "carcassonne_01", "petra_01")


def sharpness(image: np.ndarray) -> float:
    """Variance of the Laplacian of the grey image."""
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())


def degraded(path: Path, recipe: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The photograph, its degraded copy as the networks get it, and the small degraded image that both baselines enlarge."""
    photo = read_image(path)
    operations = draw(find_recipe(recipe), np.random.default_rng([seed, zlib.crc32(path.stem.encode())]), photo.shape[:2])
    *damage, _, quantise = operations  # the last but one enlarges again, bilinearly
    return photo, apply(operations, photo), apply([*damage, quantise], photo)


def best_filter(image: np.ndarray, truth: np.ndarray, bins: int = 24) -> np.ndarray:
    """`image` through the linear, direction-blind filter closest to the truth: a bound that no blind filter can pass."""
    spectrum, target = (np.fft.rfft2(x, axes=(0, 1)) for x in (image, truth))
    radius = np.hypot(np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])[None])
    places = np.digitize(np.log(radius + 1e-3), np.linspace(np.log(1.5e-3), np.log(0.71), bins))
    for place in range(bins + 1):
        ring = places == place
        seen, wanted = spectrum[ring], target[ring]
        spectrum[ring] = seen * np.maximum(0, (seen.conj() * wanted).real.sum(0) / np.maximum((abs(seen) ** 2).sum(0), 1e-12))
    return np.clip(np.fft.irfft2(spectrum, image.shape[:2], axes=(0, 1)), 0, 1).astype(np.float32)


def columns(model, path: Path, args: argparse.Namespace) -> dict[str, np.ndarray]:
    """One crop as every method leaves it."""
    photo, lq, small = degraded(path, args.recipe, args.seed)
    size = photo.shape[1::-1]
    plain, guided = RestoreOptions(steps=args.steps), RestoreOptions(steps=args.steps, guidance_scale=args.guided)
    return {
        "input": cv2.resize(small, size, interpolation=cv2.INTER_NEAREST),
        "bicubic": np.clip(cv2.resize(small, size, interpolation=cv2.INTER_CUBIC), 0, 1),
        "stage 1": restore_images(model, [lq], RestoreOptions(stage1_only=True))[0],
        "result": restore_images(model, [lq], plain)[0],
        f"guided ({args.guided:g})": restore_images(model, [lq], guided)[0],
        "original": photo,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--recipe", default="codeformer")
    parser.add_argument("--seed", type=int, default=0, help="of the degradations")
    parser.add_argument("--steps", type=int, help="denoising steps; as the model prefers if left out")
    parser.add_argument("--guided", type=float, default=20000.0, help="the strong guidance scale")
    parser.add_argument("--crops", type=int, default=26, help="how many crops")
    parser.add_argument("--sheet", type=Path, help="picture to write: one row for each of four crops")
    args = parser.parse_args()
    model, rows, shown = load_model(args.model), [], []
    for path in images_in(PHOTOS)[: args.crops]:
        images = columns(model, path, args)
        original = images["original"]
        rows.append(
            {name: (psnr(x, original), sharpness(x) / sharpness(original), abs(255 * (x - images["stage 1"]).mean((0, 1))).max())
             for name, x in (images | {"best filter": best_filter(images["bicubic"], original)}).items()
             if name not in ("input", "original")}
        )  # fmt: skip
        if path.stem in SHOWN:
            shown.append(np.concatenate(list(images.values()), axis=1))
    steps = args.steps or model.defaults.get("steps", 50)
    print(f"mean of {len(rows)} crops, recipe {args.recipe}, seed {args.seed}, {steps} steps")
    print("| | PSNR (dB) | over bicubic | Laplacian variance / original's, median | colour shift from stage 1 (of 255) |")
    print("| --- | --- | --- | --- | --- |")
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        gain = np.mean(values[:, 0] - [row["bicubic"][0] for row in rows])
        print(f"| {name} | {values[:, 0].mean():.2f} | {gain:+.2f} | {np.median(values[:, 1]):.3f} | {values[:, 2].mean():.2f} |")
    if args.sheet:
        cv2.imwrite(str(args.sheet), titled(np.concatenate(shown), list(images)))


def titled(sheet: np.ndarray, names: list[str]) -> np.ndarray:
    """The sheet as 8-bit BGR under a line with the columns' names."""
    bar = np.full((24, sheet.shape[1], 3), 255, np.uint8)
    for i, name in enumerate(names):
        cv2.putText(bar, name, (i * sheet.shape[1] // len(names) + 6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([bar, np.rint(255 * sheet[..., ::-1]).astype(np.uint8)])


if __name__ == "__main__":
    main()
