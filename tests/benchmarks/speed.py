"""Ours and PyTorch alternately: the same random weights and inputs, float32, the same cores, the sizes of Stable Diffusion 2.1.

python tests/benchmarks/speed.py --folder DIR [--rows unet,decode] [--rounds N] [--steps 50]      # needs the extra witness

Each side is a process of its own, and both take turns. A row: medians and their ratio, that of the processor time (less moved by a
busy machine), the peak resident memory of each process while it computes and their ratio, our compile time, the relative L2
distance of the results. `ceiling` is the largest matrix product of either library, of which the other rows give their share (FLOPs
of the direct convolution). `train` holds one process at a time. `restore` has a row for each --speed, beside PyTorch's --steps of
ddpm, which exact takes too, with the same noise; its compile time is the sampler's. The weights (10 GB) are drawn into DIR and kept
there.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from speed_sides import NETWORKS, Ours, Theirs, draw, inputs

sys.path.insert(0, str(Path(__file__).parents[1]))
ROUNDS = {"ceiling": 7, "unet": 5, "swinir": 5, "decode": 5, "encode": 5, "train": 3, "restore": 1}


def work(side: str, row: str, folder: Path, threads: int, steps: int) -> None:
    """One side's process: says when it is ready, runs once a line of stdin, and tells what it measured when that ends."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    made = {"ours": Ours, "theirs": Theirs}[side](folder, NETWORKS[row], threads, row == "train")
    runs = made.prepare(row, inputs(row, steps), steps)
    runs = runs if isinstance(runs, dict) else {row: runs}
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    print(json.dumps(made.facts), flush=True)
    for _ in sys.stdin:
        measured = {}
        for name, run in runs.items():
            begun = np.array([time.perf_counter(), time.process_time()])
            result = run()
            seconds = np.array([time.perf_counter(), time.process_time()]) - begun
            measured[name] = [result, 0] if row == "ceiling" else list(seconds)
            if isinstance(result, np.ndarray):
                np.save(folder / f"{name}.{side}.npy", result)
        print(json.dumps(measured), flush=True)
    peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(json.dumps({**made.facts, "peak": 1024 * int(peak)}), flush=True)


class Worker:
    """A side's process, seen from the parent."""

    def __init__(self, side: str, row: str, args: argparse.Namespace):
        own = ["--folder", str(args.folder), "--threads", str(args.threads), "--steps", str(args.steps)]
        command = [sys.executable, __file__, *own, "--work", side, "--rows", row]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.facts, self.measured = json.loads(self._line()), []

    def _line(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self.process.args)} ended with exit code {self.process.wait()}")
        return line

    def go(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.measured.append(json.loads(self._line()))

    def end(self) -> None:
        self.process.stdin.close()
        self.facts |= json.loads(self._line())
        self.process.wait()


def measure(row: str, args: argparse.Namespace) -> tuple[Worker, Worker]:
    """Both sides, the first round left out where there are more."""
    rounds = args.rounds or ROUNDS[row]
    warm = row != "restore"
    workers = []
    if row == "train":
        for side in ("ours", "theirs"):
            worker = Worker(side, row, args)
            for _ in range(rounds + warm):
                worker.go()
            worker.end()
            workers.append(worker)
    else:
        workers = [Worker(side, row, args) for side in ("ours", "theirs")]
        for _ in range(rounds + warm):
            for worker in workers:
                worker.go()
        for worker in workers:
            worker.end()
    for worker in workers:
        worker.measured = worker.measured[warm:]
    return tuple(workers)


def report(row: str, args: argparse.Namespace, ceiling: float) -> None:
    """Prints a row of the table, or those of every speed."""
    pair = measure(row, args)
    peaks = [worker.facts["peak"] / 1e9 for worker in pair]
    memory = f"{peaks[0]:.2f} GB | {peaks[1]:.2f} GB | {peaks[0] / peaks[1]:.2f}"
    theirs, their_cpu = np.median([each[row] for each in pair[1].measured], axis=0)
    for name, compiling in pair[0].facts["compile"].items():
        ours, our_cpu = np.median([each[name] for each in pair[0].measured], axis=0)
        share = f"{pair[0].facts['flops'] / ours / ceiling:.0%}" if ceiling and "flops" in pair[0].facts else "–"
        times = f"{ours:.2f} s | {theirs:.2f} s | {ours / theirs:.2f} | {our_cpu / their_cpu:.2f}"
        distance = "–"
        if name in (row, "exact") and row != "train":
            a, b = (np.load(args.folder / f"{of}.npy").astype(np.float64) for of in (f"{name}.ours", f"{row}.theirs"))
            distance = f"{np.linalg.norm(a - b) / np.linalg.norm(b):.1e}"
        said = row if name == row else f"{row}, {name}"
        print(f"| {said} | {times} | {memory} | {compiling:.0f} s | {share} | {distance} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the weights; kept")
    parser.add_argument("--rows", default=",".join(NETWORKS), help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--rounds", type=int, help="of every row, after a first that is not counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50, help="of the restoration")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    rows = args.rows.split(",")
    if not args.work and (unknown := set(rows) - set(NETWORKS)):
        parser.error(f"no row {', '.join(unknown)}; give some of {', '.join(NETWORKS)}")
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.work == "draw":
        draw(args.folder, rows[0])
        return 0
    if args.work:
        work(args.work, rows[0], args.folder, args.threads, args.steps)
        return 0
    for row in rows:
        for name in NETWORKS[row]:
            _drawn(args.folder, name)
    ceiling = 0.0
    if "ceiling" in rows:
        pair = measure("ceiling", args)
        rates = [max(each["ceiling"][0] for each in worker.measured) for worker in pair]
        ceiling = max(rates)
        print(f"Largest matrix product: ours {rates[0] / 1e9:.0f}, PyTorch {rates[1] / 1e9:.0f} GFLOP/s\n")
    heads = ("row", "ours", "PyTorch", "ratio", "of processor time", "peak, ours", "peak, PyTorch", "ratio", "compile")
    print(f"| {' | '.join(heads)} | share of ceiling | difference |")
    print("|" + " --- |" * 11, flush=True)
    for row in rows:
        if row != "ceiling":
            report(row, args, ceiling)
    return 0


def _drawn(folder: Path, name: str) -> None:
    """Draws a network in a process of its own, unless it is there."""
    if not (folder / f"{name}.safetensors").exists():
        command = [sys.executable, __file__, "--work", "draw", "--rows", name, "--folder", str(folder)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main())
