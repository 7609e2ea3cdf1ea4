"""Ours and PyTorch on one NVIDIA GPU: the same random weights, bfloat16, the sizes of Stable Diffusion 2.1.

python tests/benchmarks/gpu.py              # needs the extra witness; --toy: small networks, anywhere

Both sides are in one process and take turns. PyTorch is eager, with cuDNN's benchmark, and in the faster memory format of the first
row. A row: medians and their ratio, the device memory of each (weights of the row's networks, arguments, temporaries; ours by XLA's
plan, PyTorch's by its allocator), our compile time (several programs are compiled at once), our FLOP/s (direct convolution, nothing
computed again) and their share of the largest matrix product. `stages` are stage 1, encoding and decoding, `train` is a step with
float32 weights and moments of the control branch, whose blocks are computed again in the backward pass on both sides. A failed row
is told in a line, and a row that was timed while programs were still compiling says so. When --seconds are over the table is
printed as far as it is.
"""

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch allocates beside it

import numpy as np
from gpu_sides import NAMES, Made, OursHere, TheirsHere, count, drawn, networks
from speed_sides import inputs

sys.path.insert(0, str(Path(__file__).parents[1]))
ROWS = ("unet", "stages", "restore", "batch", "train")
COMPILERS = 8  # programs compiled at once
BATCH, STEPS, SIDE, PRODUCT = 8, 50, 512, 8192
TOY_SIDE, TOY_STEPS, TOY_PRODUCT = 128, 3, 256
HEADS = ("row", "ours", "PyTorch", "ratio", "memory, ours", "memory, PyTorch", "compile", "TFLOP/s", "share of ceiling")


class Bench:
    """All rows, and the table of those that are known."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.begun, self.lines, self.heading = args, time.perf_counter(), [], ""
        self.side, self.steps = (TOY_SIDE, TOY_STEPS) if args.toy else (SIDE, STEPS)
        self.flops, self.ceiling, self.printing = {}, 0.0, threading.Lock()
        self.watch(args.seconds)

    @property
    def left(self) -> float:
        return self.args.seconds - (time.perf_counter() - self.begun)

    def watch(self, seconds: float) -> None:
        """Ends the process after so many seconds, the table printed."""
        timer = threading.Timer(seconds, self.end, ["the time is over"])
        timer.daemon = True
        timer.start()

    def end(self, reason: str) -> None:
        with self.printing:
            print(f"{self.said()} {reason}\n\n{self.heading}\n")
            print("\n".join([f"| {' | '.join(HEADS)} |", "|" + " --- |" * len(HEADS), *self.lines]), flush=True)
            shutil.rmtree(os.environ["DIFFBIR_JAX_HOME"], ignore_errors=True)
            os._exit(0)

    def said(self) -> str:
        return f"[{time.perf_counter() - self.begun:5.1f} s]"

    def note(self, text: str) -> None:
        with self.printing:
            print(f"{self.said()} {text}", flush=True)

    def trying(self, name: str, act: Callable) -> Any:
        """What it returns; None, and a line, when it fails."""
        try:
            return act()
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = " ".join(str(error).split())[:400]
            self.note(f"{name} FAILED: {type(error).__name__}: {text} ({Path(where.filename).name}:{where.lineno})")
            return None

    def run(self) -> None:
        args = self.args
        with ThreadPoolExecutor(1) as pool:
            importing = pool.submit(_import_theirs)
            import jax

            nets = networks(args.toy)
            weights = {name: drawn(net, i) for i, (name, net) in enumerate(nets.items())}
            self.note(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}; weights drawn")
            self.ours = OursHere(nets, weights)
            jax.block_until_ready(self.ours.params)
            self.note(f"weights on the device; attention {self.ours.nets['unet'].attention_implementation}")
            self.trying("PyTorch", importing.result)
        self.pool = ThreadPoolExecutor(COMPILERS)
        shape = {"side": self.side, "width": nets["unet"].context_dim, "factor": nets["autoencoder"].downsampling_factor}
        self.one, self.many = (inputs("restore", self.steps, batch=batch, **shape) for batch in (1, args.batch))
        self.job = self.ours.jobs(self.one, self.steps)["exact"]
        ours, rows = self.ours, args.rows.split(",")
        stages = ("stage1", "encode", "decode")
        makers = {"train": partial(ours.training, self.many), "unet": partial(ours.evaluation, self.one)}
        makers |= {"batch": partial(ours.evaluation, self.many)}
        makers |= {name: partial(ours.stage, self.job, name, self.one) for name in (*stages, "sample")}
        needs = {"stages": stages, "restore": (*stages, "sample")}
        wanted = dict.fromkeys(name for row in rows for name in needs.get(row, (row,)))
        self.making = {name: self.pool.submit(makers[name]) for name in sorted(wanted, key=list(makers).index)}
        counting = self.pool.submit(count, nets, self.side)
        self.theirs = here = self.trying("PyTorch", lambda: TheirsHere(nets, weights, args.device))
        if here:
            self.given, self.given_many = here.placed(self.one), here.placed(self.many)
            here.wait()
            self.note(f"PyTorch {here.torch.__version__} has its weights")
        self.waiting()
        self.flops = self.trying("FLOPs", counting.result) or {}
        if here:
            self.trying("ceiling", self.products)
            self.trying("memory format", self.memory_format)
        if "unet" in rows:
            self.row("unet", "unet", self.there("unet"), ("unet", "control"))
        for name in stages if "stages" in rows else ():
            theirs = self.there("swinir" if name == "stage1" else name)
            self.row(name, name, theirs, ("stage1" if name == "stage1" else "autoencoder",))
        if "restore" in rows:
            self.restore(stages)
        if "batch" in rows:
            evaluation = partial(here.unet, self.given_many) if here else _failed
            self.row(f"unet, {args.batch} images", "batch", evaluation, ("unet", "control"), args.batch)
        if "train" in rows:
            self.train()
        self.end("all done")

    def there(self, name: str) -> Callable:
        """PyTorch's run of this name, for one image."""
        return partial(getattr(self.theirs, name), self.given) if self.theirs else _failed

    def waiting(self) -> None:
        """Until all programs are compiled, or two thirds of the time are over."""
        wait(self.making.values(), max(self.left - self.args.seconds / 3, 1))
        done = [f"{name} {of.result().seconds:.0f} s" for name, of in self.making.items() if of.done() and not of.exception()]
        self.note(f"compiled: {', '.join(done)}" + "".join(f"; {name} not yet" for name in self.unfinished()))

    def unfinished(self) -> list[str]:
        return [name for name, of in self.making.items() if not of.done()]

    def products(self) -> None:
        """The largest matrix product of either library."""
        import jax

        n, torch = TOY_PRODUCT if self.args.toy else PRODUCT, self.theirs.torch
        x = jax.random.normal(jax.random.key(0), (n, n), "bfloat16")
        product, y = jax.jit(lambda x: x @ x), torch.randn(n, n, device=self.args.device).to(torch.bfloat16)
        seconds = self.timed(lambda: jax.block_until_ready(product(x)), lambda: y @ y)
        self.ceiling = 2 * n**3 / min(seconds)
        rates = ", ".join(f"{name} {2 * n**3 / s / 1e12:.0f}" for name, s in zip(("ours", "PyTorch"), seconds, strict=True))
        self.heading = f"Product of two {n} x {n} matrices: {rates} TFLOP/s"
        self.note(self.heading)

    def memory_format(self) -> None:
        """Keeps the one in which PyTorch's evaluation is faster."""
        torch, seconds = self.theirs.torch, {}
        for name in (torch.channels_last, torch.contiguous_format):
            self.theirs.in_order(name)
            [seconds[name]] = self.timed(self.without_gradient(partial(self.theirs.unet, self.given)))
        best = min(seconds, key=seconds.get)
        self.theirs.in_order(best)
        told = ", ".join(f"{name} {1000 * s:.1f} ms" for name, s in seconds.items())
        self.note(f"PyTorch's unet: {told}; {best} is used")

    def without_gradient(self, run: Callable) -> Callable:
        def act() -> Any:
            if not self.theirs:
                return run()
            with self.theirs.torch.no_grad():
                return run()

        return act

    def timed(self, *runs: Callable, warm: int = 2) -> list[float]:
        """Medians of runs in turn, which are waited for; the first `warm` of each are not counted."""
        for run in warm * runs:
            self.seconds(run)
        rounds, seconds = 3, []
        while len(seconds) < rounds:
            seconds.append([self.seconds(run) for run in runs])
            rounds = int(np.clip(2 / sum(seconds[0]), 3, 20))
        return list(np.median(seconds, 0))

    def seconds(self, run: Callable) -> float:
        begun = time.perf_counter()
        run()
        if self.theirs:
            self.theirs.wait()
        return time.perf_counter() - begun

    def row(self, name: str, ours: str | Made, theirs: Callable, names: tuple[str, ...], batch: int = 1, extra: int = 0) -> None:
        """Measures both sides, or the one that works, and prints the row. `extra`: PyTorch's bytes instead of the networks'."""
        if self.left < 10:
            self.note(f"{name} left out, the time is over")
            return
        trains = name.startswith("train")
        theirs = theirs if trains else self.without_gradient(theirs)
        made = ours if isinstance(ours, Made) else self.trying(f"{name}, ours", lambda: self.of(ours))
        run = made and (lambda: _ready(made.run()))
        result = made and self.trying(f"{name}, ours", lambda: (run(), run())[:1])
        run, their_result = result and run, self.trying(f"{name}, PyTorch", lambda: (theirs(),))
        there = their_result is not None
        peak = self.trying(f"{name}, PyTorch", lambda: self.theirs.peak(theirs)) if there else None
        busy = " (while compiling)" if self.unfinished() else ""
        seconds = self.trying(name, lambda: self.timed(*([run] if run else []), *([theirs] if there else []), warm=0)) or []
        ours_s = seconds[0] if run and seconds else None
        their_s = seconds[-1] if there and seconds else None
        their_bytes = None if peak is None else peak + (extra or sum(self.theirs.bytes[n] for n in names))
        our_bytes = self.trying(f"{name}, memory", made.bytes) if made else None
        flops = batch * self.flops.get(name.split(",")[0], 0)
        rate = flops / ours_s if flops and ours_s else None
        cells = [
            name + busy,
            _ms(ours_s) + (f" ({batch / ours_s:.2f} images/s)" if trains and ours_s else ""),
            _ms(their_s) + (f" ({batch / their_s:.2f} images/s)" if trains and their_s else ""),
            f"{ours_s / their_s:.2f}" if ours_s and their_s else "–",
            *(f"{b / 1e9:.2f} GB" if b else "–" for b in (our_bytes, their_bytes)),
            f"{made.seconds:.0f} s" if made else "–",
            f"{rate / 1e12:.0f}" if rate else "–",
            f"{rate / self.ceiling:.0%}" if rate and self.ceiling else "–",
        ]
        self.lines.append(f"| {' | '.join(cells)} |")
        self.note(self.lines[-1])
        if not trains and result and their_result:
            self.trying(f"{name}, difference", lambda: self.compare(name, *result, *their_result))

    def of(self, name: str) -> Made:
        """What is compiled; waits for it no longer than there is time."""
        return self.making[name].result(max(self.left - 10, 1))

    def compare(self, name: str, ours: Any, theirs: Any) -> None:
        ours = ours[1].clip(0, 1) if isinstance(ours, tuple) else ours  # decoded and coloured
        ours = np.asarray(ours, np.float64)
        theirs = np.moveaxis(theirs.float().cpu().numpy(), 1, -1).astype(np.float64)
        self.note(f"{name}: relative L2 distance of the results {np.linalg.norm(ours - theirs) / np.linalg.norm(theirs):.1e}")

    def restore(self, stages: tuple[str, ...]) -> None:
        """The whole restoration."""
        seconds = self.trying("restore, ours", lambda: sum(self.of(name).seconds for name in (*stages, "sample")))
        self.flops["restore"] = self.steps * self.flops.get("unet", 0) + sum(self.flops.get(name, 0) for name in stages)
        if seconds is None:
            return
        ours = Made(partial(self.ours.restoration, self.job), seconds, self.ours.restoration_bytes)
        self.row(f"restore, {self.steps} steps", ours, self.there("restore"), NAMES)

    def train(self) -> None:
        """The training step; the networks of the restoration stay where they are."""
        run, size = self.trying("train, PyTorch", lambda: self.theirs.training(self.given_many)) or (_failed, 0)
        self.row(f"train, {self.args.batch} images", "train", run, NAMES, self.args.batch, size)


def _ready(x: Any) -> Any:
    import jax

    return jax.block_until_ready(x)


def _failed() -> None:
    raise RuntimeError("it was not made")


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1000 * seconds:.1f} ms"


def _import_theirs() -> None:
    import diffusers
    import torch  # noqa: F401

    _ = diffusers.UNet2DConditionModel, diffusers.AutoencoderKL


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300, help="in all")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--toy", action="store_true", help="small networks and images")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="PyTorch's; ours is JAX's first")
    args = parser.parse_args()
    if unknown := set(args.rows.split(",")) - set(ROWS):
        parser.error(f"no row {', '.join(unknown)}; give some of {', '.join(ROWS)}")
    os.environ["DIFFBIR_JAX_HOME"] = tempfile.mkdtemp()
    bench = Bench(args)
    bench.trying("the bench", bench.run)
    bench.end("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
