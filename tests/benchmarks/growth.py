"""How the cost of a restoration grows: seconds of every stage and peak memory against pixels, steps, images at a time and devices.

python tests/benchmarks/growth.py --output DIR [--axes pixels,steps,batch,devices] [--largest 16]     # matplotlib: extra measure

With the embedded model. Every point is a process of its own, which restores twice, above 1 megapixel once; compiling is left out.
Pixels are restored in tiles at the model's own steps; steps from pure noise at 512x512; images at a time at 256x256; devices are
simulated on the same cores, with 8 images of 128x128. DIR gets growth.csv and growth.png; exponents are slopes of log(seconds) over
log(amount), by least squares, and a stage dominates where it takes more than the others together.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np

PHOTO = Path(__file__).parents[1] / "data" / "photos" / "china_01.webp"
STAGES = ("stage 1", "encode", "sample", "decode")
AXES = {
    "pixels": ("megapixels", [0.25, 1, 4, 16]),
    "steps": ("steps", [1, 5, 10, 20, 50]),
    "batch": ("images at a time", [1, 2, 4, 8]),
    "devices": ("devices", [1, 2, 4, 8]),
}


def job(axis: str, amount: float) -> dict[str, Any]:
    """What a point restores: images of how many pixels a side, how many, with which options, on how many devices."""
    point = {"side": 512, "images": 1, "devices": 1, "options": {"tiles": "off"}}
    if axis == "pixels":
        return point | {"side": round(amount**0.5 * 1024), "options": {"tiles": "on"}}
    if axis == "steps":
        return point | {"options": {"tiles": "off", "steps": int(amount), "start": "noise"}}
    if axis == "batch":
        return point | {"side": 256, "images": int(amount)}
    return point | {"side": 128, "images": 8, "devices": int(amount)}


def measure(point: dict[str, Any]) -> None:
    """Restores with a clock in every stage; prints what it found as JSON."""
    import jax

    from diffbir_jax import RestoreOptions, load_model, pipeline, programs
    from diffbir_jax.imaging.reading import read_image
    from diffbir_jax.imaging.resizing import resize

    model = load_model("tiny")
    options = RestoreOptions(**point["options"]).completed(model.defaults)
    photo = resize(read_image(PHOTO), (point["side"],) * 2).clip(0, 1)
    mesh = pipeline.local_mesh(point["devices"])
    each = point["images"] // point["devices"]
    jobs = [(i, pipeline.Job(model, photo, options)) for i in range(point["images"])]
    seconds: dict[str, float] = {}

    def clock() -> float:
        return time.perf_counter() - sum(programs.compiled)

    def timed(name: str, method: Any) -> Any:
        @wraps(method)
        def run(*arguments: Any) -> Any:
            begun = clock()
            result = method(*arguments)
            result = jax.block_until_ready(result if name != "stage 1" else list(result))
            seconds[name] = clock() - begun
            return result

        return run

    methods = {"stage 1": "stage1", "encode": "encode", "stage 2": "stage2", "decode": "decode"}
    for name, method in methods.items():
        setattr(pipeline.Batch, method, timed(name, getattr(pipeline.Batch, method)))
    make = programs.sample_program

    def sample_program(*arguments: Any) -> Any:
        program = make(*arguments)
        return lambda *given: jax.block_until_ready(program(*given))  # else its time is the decoder's

    programs.sample_program = sample_program
    for _ in range(1 if point["side"] > 1024 else 2):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        begun = clock()
        assert len(list(pipeline.restore_jobs(jobs, mesh, each))) == point["images"]
        total = clock() - begun
    seconds["sample"] = seconds.pop("stage 2") - seconds["encode"] - seconds["decode"]
    peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(json.dumps({**seconds, "all": total, "gigabytes": 1024 * int(peak) / 1e9}))


def point_of(axis: str, amount: float) -> dict[str, Any]:
    """A point, measured in a process of its own."""
    point = job(axis, amount)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={point['devices']}"
    command = [sys.executable, __file__, "--measure", json.dumps(point)]
    done = subprocess.run(command, env=os.environ | {"XLA_FLAGS": flags}, stdout=subprocess.PIPE, text=True, check=True)
    found = {"axis": axis, "amount": amount, **json.loads(done.stdout.splitlines()[-1])}
    print(f"{axis} {amount:g}: {found['all']:.2f} s, {found['gigabytes']:.2f} GB", flush=True)
    return found


def exponent(points: list[dict[str, Any]], name: str) -> float:
    """Slope of log(value) over log(amount)."""
    return float(np.polyfit(*np.log([[p["amount"] for p in points], [p[name] for p in points]]), 1)[0])


def dominant(point: dict[str, Any]) -> str:
    """The stage that takes more than all others together, or "none"."""
    return next((stage for stage in STAGES if point[stage] > sum(point[s] for s in STAGES) / 2), "none")


def draw(points: list[dict[str, Any]], output: Path) -> None:
    """A panel an axis: seconds by stage, and memory in gray."""
    from matplotlib.figure import Figure

    axes = list(dict.fromkeys(p["axis"] for p in points))
    figure = Figure(figsize=(4.2 * len(axes), 4.2), layout="constrained")
    for panel, axis in zip(figure.subplots(1, len(axes), squeeze=False)[0], axes, strict=True):
        along = [p for p in points if p["axis"] == axis]
        amounts = [p["amount"] for p in along]
        for name in (*STAGES, "all"):
            panel.loglog(amounts, [p[name] for p in along], "o-", label=name, color="black" if name == "all" else None)
        panel.set(xlabel=AXES[axis][0], ylabel="seconds")
        panel.set_xticks(amounts, [f"{a:g}" for a in amounts])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        memory = panel.twinx()
        memory.plot(amounts, [p["gigabytes"] for p in along], "s--", color="gray", label="peak memory")
        memory.set(ylabel="GB", ylim=(0, None))
        if axis == axes[0]:
            panel.legend(handles=[*panel.lines, *memory.lines], fontsize=8)
    figure.savefig(output, dpi=90)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder to write")
    parser.add_argument("--axes", default=",".join(AXES), help=f"of {', '.join(AXES)}")
    parser.add_argument("--largest", type=float, default=16, help="megapixels")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(json.loads(args.measure))
        return 0
    axes = args.axes.split(",")
    if not args.output or set(axes) - set(AXES):
        parser.error(f"give --output, and --axes some of {', '.join(AXES)}")
    args.output.mkdir(parents=True, exist_ok=True)
    points = [point_of(axis, n) for axis in axes for n in AXES[axis][1] if axis != "pixels" or n <= args.largest]
    with open(args.output / "growth.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["axis", "amount", *STAGES, "all", "gigabytes"], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: v if isinstance(v, str) else f"{v:.4g}" for k, v in p.items()} for p in points)
    draw(points, args.output / "growth.png")
    print("| against | " + " | ".join((*STAGES, "all", "memory")) + " | dominates |\n|" + " --- |" * (len(STAGES) + 4))
    for axis in axes:
        along = [p for p in points if p["axis"] == axis]
        slopes = [f"{exponent(along, name):.2f}" for name in (*STAGES, "all", "gigabytes")]
        stages = ", ".join(f"{dominant(p)} at {p['amount']:g}" for p in along)
        print(f"| {AXES[axis][0]} | {' | '.join(slopes)} | {stages} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
