"""The two sides of gpu.py: the same random weights in bfloat16, held in memory."""

import copy
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from speed_sides import Ours, Theirs, in_torch

NAMES = ("unet", "control", "autoencoder", "stage1")
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

    def __init__(self, nets: dict[str, Any], weights: dict[str, Any]):
        from diffbir_jax.model import _computed

        self.stored, self.weights, self.folder, self.facts = nets, weights, None, {}
        made = {name: _computed(net, weights[name], np.dtype("bfloat16")) for name, net in nets.items()}
        self.nets, self.params = ({name: pair[i] for name, pair in made.items()} for i in (0, 1))

    def evaluation(self, given: dict[str, np.ndarray]) -> Made:
        """UNet and control branch."""
        import jax

        arguments = [jax.device_put(given[name]) for name in ("z_t", "t", "context", "cond")]
        params = {name: self.params[name] for name in ("unet", "control")}
        begun = time.perf_counter()
        program = jax.jit(partial(self.unet, self.nets)).lower(params, *arguments).compile()
        return Made(partial(program, params, *arguments), time.perf_counter() - begun, lambda: planned(program))

    def training(self, given: dict[str, np.ndarray]) -> Made:
        """The step, with a copy of the control branch."""
        own = copy.copy(self)
        own.nets, own.facts, own.params = self.stored, {}, {**self.params, "control": self.weights["control"]}
        run = own.train(given, precision="bf16", frozen_precision="bf16", remat=True, conv_implementation="xla")
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

    def training(self, given: dict[str, Any]) -> tuple[Callable, int]:
        """The step, with a float32 copy of the control branch, and the bytes of all weights and moments."""
        own = copy.copy(self)
        own.nets = {**self.nets, "control": copy.deepcopy(self.nets["control"]).float()}
        for net in (own.nets["unet"], own.nets["control"].encoder):
            net.enable_gradient_checkpointing()
        return own.train(given), sum(self.bytes.values()) + 5 * self.bytes["control"]  # 3 x 4 bytes instead of 2

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


def count(nets: dict[str, Any], side: int) -> dict[str, float]:
    """FLOPs of every row, an image of `side` pixels."""
    import jax

    from diffbir_jax.training.config import paper_stage2
    from diffbir_jax.training.cost import counted, evaluation_flops, image_flops, whole
    from diffbir_jax.training.networks import Setup
    from diffbir_jax.weights.registry import PRESETS
    from diffbir_jax.weights.released import shapes_of

    shapes = {name: shapes_of(net) for name, net in nets.items()}
    small = side // nets["autoencoder"].downsampling_factor
    image, latent = (jax.ShapeDtypeStruct((1, *shape), np.float32) for shape in ((side, side, 3), (small, small, 4)))
    found = {"unet": evaluation_flops(nets, shapes, latent.shape)}
    plain = {name: whole(net) for name, net in nets.items()}
    for name, function, x in (("stage1", Ours.swinir, image), ("encode", Ours.encode, image), ("decode", Ours.decode, latent)):
        found[name] = counted(partial(function, plain), shapes, x)
    frozen = {name: x for name, x in shapes.items() if name != "control"}
    frozen["empty"] = jax.ShapeDtypeStruct((1, 77, nets["unet"].context_dim), np.float32)
    setup = Setup(nets, {"control": shapes["control"]}, frozen, PRESETS["v1-general"].sampling)
    found["train"] = image_flops(paper_stage2("full", data__crop=side), setup)
    return found
