"""Ours and PyTorch on one NVIDIA GPU: the same random weights, bfloat16, the sizes of Stable Diffusion 2.1.

python tests/benchmarks/gpu.py --count flops.json               # counts FLOPs, on any machine, in half a minute
python tests/benchmarks/gpu.py --flops flops.json               # measures; needs the extra witness; --toy: small networks, anywhere

Both sides are in one process and take turns. PyTorch is eager, with cuDNN's benchmark, and in the faster memory format of the first
row. A row: medians and their ratio, the device memory of each (weights of the row's networks, arguments, temporaries; ours by XLA's
plan, PyTorch's by its allocator), our compile time (several programs are compiled at once), our FLOP/s (direct convolution, nothing
computed again) and their share of the largest matrix product. `stages` are stage 1, encoding and decoding, `train` is a step with
float32 weights and moments of the control branch, whose blocks are computed again in the backward pass on both sides, in `kept` on
neither, `compiled` the restoration with PyTorch's UNet and control branch compiled. A failed row is told in a line, and a row that
was timed while programs were still compiling says so. When --seconds are over the table is printed as far as it is.
"""

import argparse
import copy
import json
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
from typing import Any, NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch allocates beside it

import numpy as np
from speed_sides import Ours, Theirs, in_torch, inputs

sys.path.insert(0, str(Path(__file__).parents[1]))
ROWS = ("unet", "stages", "restore", "train", "batch", "kept", "compiled")
NAMES = ("unet", "control", "autoencoder", "stage1")
BATCH, STEPS, SIDE, PRODUCT = 8, 50, 512, 8192
TOY_SIDE, TOY_STEPS, TOY_PRODUCT = 128, 3, 256
HEADS = ("row", "ours", "PyTorch", "ratio", "memory, ours", "memory, PyTorch", "compile", "TFLOP/s", "share of ceiling")
CHUNK = 1 << 22  # numbers drawn at a time


def networks(toy: bool) -> dict[str, Any]:
    """The networks, as stored."""
    from diffbir_jax.models import autoencoder, control, swinir, unet

    small = {"channels": (32, 64), "attention": (True, False), "head_dim": 16, "groups": 8, "context_dim": 24, "blocks": 1}
    vae = {"channels": (16, 16, 32, 32), "blocks": 1, "groups": 8}
    first = {"embed_dim": 16, "depths": (2, 2), "heads": (2, 2), "features": 8}
    small, vae, first = (sizes if toy else {} for sizes in (small, vae, first))
    made = (unet.UNet(**small), control.LAControlNet(**small), autoencoder.AutoencoderKL(**vae), swinir.SwinIR(**first))
    return dict(zip(NAMES, made, strict=True))


def drawn(net: Any, seed: int) -> Any:
    """Weights of unit gain, norms near one, in bfloat16 (cut off, not rounded), with all cores."""
    import jax
    import ml_dtypes

    from diffbir_jax.weights.released import shapes_of

    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes_of(net))
    out = [np.empty(s.shape, np.uint16) for _, s in leaves]

    def fill(i: int, start: int) -> None:
        (path, s), part = leaves[i], out[i].reshape(-1)[start : start + CHUNK]
        x = np.random.default_rng((seed, i, start)).standard_normal(part.size, np.float32)
        x *= 0.1 if len(s.shape) == 1 else np.prod(s.shape[:-1]) ** -0.5
        x += path[-1].key == "scale"
        part[:] = x.view(np.uint32) >> 16

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda job: fill(*job), [(i, at) for i, x in enumerate(out) for at in range(0, x.size, CHUNK)]))
    return tree.unflatten([x.view(ml_dtypes.bfloat16) for x in out])


class Made(NamedTuple):
    """Something of ours, compiled."""

    run: Callable
    seconds: float
    bytes: Callable[[], int]


class OursHere(Ours):
    """Our side with weights from memory."""

    def __init__(self, nets: dict[str, Any], weights: dict[str, Any], attention: str):
        from diffbir_jax.model import _computed

        self.stored, self.weights, self.folder, self.facts = nets, weights, None, {}
        made = {name: _computed(net, weights[name], np.dtype("bfloat16")) for name, net in nets.items()}
        self.nets, self.params = ({name: pair[i] for name, pair in made.items()} for i in (0, 1))
        self.attention = attention
        if attention != "auto":
            self.nets |= {name: self.nets[name].clone(attention_implementation=attention) for name in ("unet", "control")}

    def evaluation(self, given: dict[str, np.ndarray]) -> Made:
        """UNet and control branch."""
        import jax

        arguments = [jax.device_put(given[name]) for name in ("z_t", "t", "context", "cond")]
        params = {name: self.params[name] for name in ("unet", "control")}
        begun = time.perf_counter()
        program = jax.jit(partial(self.unet, self.nets)).lower(params, *arguments).compile()
        return Made(partial(program, params, *arguments), time.perf_counter() - begun, lambda: planned(program))

    def training(self, given: dict[str, np.ndarray], remat: bool) -> Made:
        """The step, with a copy of the control branch."""
        own = copy.copy(self)
        own.nets, own.facts, own.params = self.stored, {}, {**self.params, "control": self.weights["control"]}
        how = {"remat": remat, "conv_implementation": "xla", "attention_implementation": self.attention}
        run = own.train(given, precision="bf16", frozen_precision="bf16", **how)
        return Made(run, own.facts["compile"]["train"], lambda: planned(own.program))

    def stage(self, job: Any, name: str, given: dict[str, np.ndarray]) -> Made:
        """One of the restoration's programs."""
        import jax

        from diffbir_jax import programs
        from diffbir_jax.pipeline import local_mesh

        where, begun = (job.model, local_mesh(1), 1, job.frame), time.perf_counter()
        if name == "sample":
            run = programs.sample_program(*where, job.plan)
        else:
            run = getattr(programs, f"{name}_program")(*where)
        seconds, image = time.perf_counter() - begun, given["image"]
        arguments = (given["cond"], image, np.array([job.frame], np.int32)) if name == "decode" else (image,)
        return Made(partial(run, *map(jax.device_put, arguments)), seconds, lambda: planned(held(name)))

    def restoration(self, job: Any) -> np.ndarray:
        from diffbir_jax.pipeline import local_mesh, restore_jobs

        [(_, result)] = restore_jobs([(0, job)], local_mesh(1))
        return result.image[None]

    def restoration_bytes(self) -> int:
        """All weights, and what the largest program needs beside its own."""
        import jax

        programs = [held(name) for name in ("stage1", "encode", "sample", "decode")]
        beside = (planned(program) - program.memory_analysis().argument_size_in_bytes for program in programs)
        return sum(x.nbytes for x in jax.tree.leaves(self.params)) + max(beside)


def held(name: str) -> Any:
    """The restoration's program of this name, compiled."""
    from diffbir_jax import programs

    for (_, _, names, _, key), program in programs._programs.items():
        of = key[0] if names == ("autoencoder",) else "stage1" if names == ("stage1",) else "sample"
        if of == name:
            return program._run
    raise KeyError(name)


def planned(program: Any) -> int:
    """Bytes of a compiled program: arguments, results, temporaries."""
    m = program.memory_analysis()
    return m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes - m.alias_size_in_bytes


class TheirsHere(Theirs):
    """PyTorch's side on a device, in bfloat16; float32 between the networks."""

    def __init__(self, nets: dict[str, Any], weights: dict[str, Any], device: str):
        import torch

        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        self.torch, self.device, self.facts, self.nets, self.bytes = torch, device, {}, {}, {}
        for name, net in nets.items():
            state, config = in_torch(net, weights[name])
            state = {key: self.tensor(x) for key, x in state.items() if not key.endswith("attn_mask")}
            self.bytes[name] = sum(x.nbytes for x in state.values())
            self.hold(name, state, config)

    def tensor(self, x: np.ndarray) -> Any:
        """A copy on the device; what is transposed is put in order there."""
        short = x.dtype.itemsize == 2
        x = self.torch.from_numpy(x.view(np.int16) if short else x).to(self.device).contiguous()
        return x.view(self.torch.bfloat16) if short else x

    def placed(self, given: dict[str, np.ndarray]) -> dict[str, Any]:
        maps = {name: self.theirs.nchw(x) for name, x in given.items() if name in ("image", "z_t", "cond")}
        maps |= {name: self.torch.from_numpy(given[name]) for name in ("t", "context", "noise")}
        return {name: x.to(self.device) for name, x in maps.items()}

    def in_order(self, memory_format: Any) -> None:
        """Has the convolutional networks' weights in this memory format."""
        for name in ("unet", "control", "autoencoder"):
            self.nets[name].to(memory_format=memory_format)

    def half(self, *tensors: Any) -> Any:
        return (x.to(self.torch.bfloat16) for x in tensors)

    def predict(self, z_t: Any, cond: Any, t: Any, context: Any) -> Any:
        z_t, cond, context = self.half(z_t, cond, context)
        trained = next(self.nets["control"].parameters()).dtype == self.torch.float32
        with self.torch.autocast(self.device, self.torch.bfloat16, enabled=trained):
            control = self.nets["control"](z_t, cond, t, context)
        return self.theirs.controlled(self.nets["unet"], list(self.half(*control)), z_t, t, context).float()

    def swinir(self, given: dict[str, Any]) -> Any:
        return self.nets["stage1"](*self.half(given["image"])).float()

    def latent(self, image: Any) -> Any:
        return super().latent(*self.half(image)).float()

    def image(self, latent: Any) -> Any:
        return super().image(*self.half(latent)).float()

    def decode(self, given: dict[str, Any]) -> Any:
        return self.coloured(super().decode(given), given["image"])

    def training(self, given: dict[str, Any], remat: bool) -> tuple[Callable, int]:
        """The step, with a float32 copy of the control branch, and the bytes of all weights and moments."""
        own = copy.copy(self)
        own.nets = {**self.nets, "control": copy.deepcopy(self.nets["control"]).float()}
        for net in (own.nets["unet"], own.nets["control"].encoder):
            (net.enable_gradient_checkpointing if remat else net.disable_gradient_checkpointing)()
        return own.train(given), sum(self.bytes.values()) + 5 * self.bytes["control"]  # 3 x 4 bytes instead of 2

    def compiled(self) -> "TheirsHere":
        own = copy.copy(self)
        made = {name: self.torch.compile(self.nets[name], dynamic=False) for name in ("unet", "control")}
        own.nets = {**self.nets, **made}
        return own

    def wait(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def peak(self, run: Callable) -> int:
        """Bytes that a run allocates beyond what was there."""
        if self.device != "cuda":
            run()
            return 0
        cuda = self.torch.cuda
        cuda.reset_peak_memory_stats()
        before = cuda.memory_allocated()
        run()
        cuda.synchronize()
        return cuda.max_memory_allocated() - before


class Bench:
    """All rows, and the table of those that are known."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.begun, self.lines, self.heading = args, time.perf_counter(), [], ""
        self.side, self.steps = (TOY_SIDE, TOY_STEPS) if args.toy else (SIDE, STEPS)
        self.flops = json.loads(args.flops.read_text()) if args.flops else {}
        self.ceiling, self.printing = 0.0, threading.Lock()
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
            self.ours = OursHere(nets, weights, args.attention)
            jax.block_until_ready(self.ours.params)
            self.note(f"weights on the device; attention {self.ours.nets['unet'].attention_implementation}")
            self.trying("PyTorch", importing.result)
        self.pool = ThreadPoolExecutor(args.compilers)
        shape = {"side": self.side, "width": nets["unet"].context_dim, "factor": nets["autoencoder"].downsampling_factor}
        self.one, self.many = (inputs("restore", self.steps, batch=batch, **shape) for batch in (1, args.batch))
        self.job = self.ours.jobs(self.one, self.steps)["exact"]
        ours, rows = self.ours, args.rows.split(",")
        stages = ("stage1", "encode", "decode")
        makers = {"train": partial(ours.training, self.many, True), "kept": partial(ours.training, self.many, False)}
        makers |= {"unet": partial(ours.evaluation, self.one), "batch": partial(ours.evaluation, self.many)}
        makers |= {name: partial(ours.stage, self.job, name, self.one) for name in (*stages, "sample")}
        needs = {"stages": stages, "restore": (*stages, "sample"), "compiled": ()}
        wanted = dict.fromkeys(name for row in rows for name in needs.get(row, (row,)))
        self.making = {name: self.pool.submit(makers[name]) for name in sorted(wanted, key=list(makers).index)}
        self.theirs = here = self.trying("PyTorch", lambda: TheirsHere(nets, weights, args.device))
        if here:
            self.given, self.given_many = here.placed(self.one), here.placed(self.many)
            here.wait()
            self.note(f"PyTorch {here.torch.__version__} has its weights")
        self.waiting()
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
        for name in ("train", "kept"):
            if name in rows:
                self.train(name)
        if "compiled" in rows and here and self.left > 30:
            self.watch(min(args.compile_seconds, self.left))
            self.compiled()
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
        flops = batch * self.flops.get("train" if trains else name.split(",")[0], 0)
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

    def train(self, name: str) -> None:
        """The training step; the networks of the restoration stay where they are."""
        theirs = self.trying(f"{name}, PyTorch", lambda: self.theirs.training(self.given_many, name == "train"))
        run, size = theirs or (_failed, 0)
        what = "computed again" if name == "train" else "all kept"
        self.row(f"train, {self.args.batch} images, {what}", name, run, NAMES, self.args.batch, size)
        del theirs, run
        if self.theirs:
            self.theirs.torch.cuda.empty_cache()

    def compiled(self) -> None:
        """PyTorch's restoration with its UNet and control branch compiled."""
        here = self.theirs.compiled()
        run = self.without_gradient(partial(here.restore, self.given))
        begun = time.perf_counter()
        if self.trying("torch.compile", lambda: (run(), here.wait(), True)) is None:
            return
        first = time.perf_counter() - begun
        seconds = self.trying("torch.compile", lambda: self.timed(run))
        if seconds:
            cells = (f"restore, {self.steps} steps, torch.compile", "–", _ms(seconds[0]), *"–––", f"{first:.0f} s", *"––")
            self.lines.append(f"| {' | '.join(cells)} |")
            self.note(self.lines[-1])


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


def count(toy: bool) -> dict[str, float]:
    """FLOPs of every row, an image."""
    import jax

    from diffbir_jax.training.config import paper_stage2
    from diffbir_jax.training.cost import evaluation_flops, image_flops, whole
    from diffbir_jax.training.networks import Setup
    from diffbir_jax.weights.registry import PRESETS
    from diffbir_jax.weights.released import shapes_of

    nets, side = networks(toy), TOY_SIDE if toy else SIDE
    shapes = {name: shapes_of(net) for name, net in nets.items()}
    small = side // nets["autoencoder"].downsampling_factor
    image, latent = (jax.ShapeDtypeStruct((1, *shape), np.float32) for shape in ((side, side, 3), (small, small, 4)))
    found = {"unet": evaluation_flops(nets, shapes, latent.shape)}
    counted = {name: whole(net) for name, net in nets.items()}
    for name, function, x in (("stage1", Ours.swinir, image), ("encode", Ours.encode, image), ("decode", Ours.decode, latent)):
        found[name] = float(jax.jit(partial(function, counted)).lower(shapes, x).cost_analysis()["flops"])
    frozen = {name: x for name, x in shapes.items() if name != "control"}
    frozen["empty"] = jax.ShapeDtypeStruct((1, 77, nets["unet"].context_dim), np.float32)
    setup = Setup(nets, {"control": shapes["control"]}, frozen, PRESETS["v1-general"].sampling)
    found["train"] = image_flops(paper_stage2("full", data__crop=side), setup)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=Path, metavar="FILE", help="count FLOPs into it, and measure nothing")
    parser.add_argument("--flops", type=Path, metavar="FILE", help="counted before")
    parser.add_argument("--seconds", type=float, default=200, help="in all")
    parser.add_argument("--compile-seconds", type=float, default=90, help="for `compiled`, the last row")
    rows = ",".join(row for row in ROWS if row != "kept")
    parser.add_argument("--rows", default=rows, help=f"of {', '.join(ROWS)}; as a rule all but kept")
    parser.add_argument("--attention", default="auto", help="of our UNet and control branch")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--compilers", type=int, default=8, help="programs compiled at once")
    parser.add_argument("--toy", action="store_true", help="small networks and images")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="PyTorch's; ours is JAX's first")
    args = parser.parse_args()
    if args.count:
        args.count.write_text(json.dumps(count(args.toy)))
        return 0
    if unknown := set(args.rows.split(",")) - set(ROWS):
        parser.error(f"no row {', '.join(unknown)}; give some of {', '.join(ROWS)}")
    os.environ["DIFFBIR_JAX_HOME"] = tempfile.mkdtemp()
    bench = Bench(args)
    bench.trying("the bench", bench.run)
    bench.end("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
