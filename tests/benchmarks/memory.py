"""Peak memory of the whole process, converting and restoring, with random weights in the released files' format.

python tests/benchmarks/memory.py --folder DIR [--small]      # 20 GB of disk, half an hour on two cores; needs the extra torch

Prints a row a process: its wall time, its peak resident memory and the bound it is held to; exits with 1 if one is passed. At the
released sizes a conversion stays below its file and 1 GB, a restoration of 512x512 pixels below 11 GB, with bf16 weights below 7.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
FILES = ("v2-1_512-ema-pruned.ckpt", "v2.pth", "face_swinir_v1.ckpt")
GB = 1e9


def make(folder: Path, small: bool) -> None:
    """Writes the files, and a photograph of 512x512 pixels."""
    sys.path.insert(0, str(TESTS))
    from released_files import write_released

    from diffbir_jax.imaging.paths import images_in
    from diffbir_jax.imaging.reading import read_image
    from diffbir_jax.imaging.resizing import resize
    from diffbir_jax.imaging.writing import write_picture

    for file in FILES:
        if not (folder / file).exists():
            write_released(folder, file, small)
    photo = read_image(images_in(TESTS / "data" / "photos")[0])
    write_picture(folder / "photo.png", resize(photo, (512, 512)))


def measured(what: str, bound: float, *argv: str) -> bool:
    """Runs a Python command in a process of its own and prints its row; whether it kept within the bound."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, *argv], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss * 1024
    print(f"| {what} | {time.perf_counter() - begun:.0f} s | {peak / GB:.2f} GB | {bound / GB:.2f} GB |", flush=True)
    if process.returncode:
        raise SystemExit(f"{what} failed with exit code {process.returncode}")
    return peak < bound


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the files and what is made of them; kept")
    parser.add_argument("--small", action="store_true", help="shrunk networks, to try the script")
    parser.add_argument("--steps", default="3")
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.make:
        make(args.folder, args.small)
        return 0
    subprocess.run([sys.executable, __file__, "--make", "--folder", args.folder, *["--small"] * args.small], check=True)
    return 0 if all(rows(args.folder, args.small, args.steps)) else 1


def rows(folder: Path, small: bool, steps: str) -> list[bool]:
    """All measurements."""
    print("| process | time | peak | bound |\n| --- | --- | --- | --- |", flush=True)
    convert, model = ("-m", "diffbir_jax.convert"), str(folder / "model")
    head = ["--head-dim", "32"] * small
    kept = []
    for file in FILES:
        bound = (folder / file).stat().st_size + GB
        kept.append(measured(f"to-jax {file}", bound, *convert, "to-jax", str(folder / file), "--output", model, *head))
    bound = (folder / FILES[0]).stat().st_size + GB
    kept.append(measured("to-torch, all", bound, *convert, "to-torch", model, "--output", str(folder / "back")))
    for precision, bound in (("f32", 11 * GB), ("bf16", 7 * GB)):
        restore = ["-m", "diffbir_jax.restore", str(folder / "photo.png"), "--output", str(folder / precision), "--model", model]
        restore += ["--task", "face", "--steps", steps, "--cfg", "1", "--precision", precision]
        kept.append(measured(f"restore 512x512, {steps} steps, {precision}", bound, *restore))
    return kept


if __name__ == "__main__":
    sys.exit(main())
