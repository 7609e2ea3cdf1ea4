"""The two sides of speed.py: the same random weights and inputs for our networks and PyTorch's."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

PRODUCTS = (2048, 4096)
NETWORKS = {
    "ceiling": (),
    "unet": ("unet", "control"),
    "swinir": ("stage1",),
    "decode": ("autoencoder",),
    "encode": ("autoencoder",),
    "train": ("stage1", "autoencoder", "unet", "control"),
    "restore": ("stage1", "autoencoder", "unet", "control"),
}
Run = Callable[[], Any]


def draw(folder: Path, name: str) -> None:
    """A network's weights of unit gain, norms near one, for both sides."""
    import jax
    from safetensors.numpy import save_file

    from diffbir_jax.models import autoencoder, control, swinir, unet
    from diffbir_jax.weights.folder import save_network
    from diffbir_jax.weights.released import shapes_of

    rng = np.random.default_rng(len(name))
    kinds = {"stage1": swinir.SwinIR, "autoencoder": autoencoder.AutoencoderKL, "unet": unet.UNet, "control": control.LAControlNet}
    net = kinds[name]()

    def tensor(path: Any, s: Any) -> np.ndarray:
        x = rng.standard_normal(s.shape, np.float32)
        if len(s.shape) == 1:
            return 0.1 * x + np.float32(path[-1].key == "scale")
        return x * np.float32(np.prod(s.shape[:-1]) ** -0.5)

    params = jax.tree_util.tree_map_with_path(tensor, shapes_of(net))
    state, config = in_torch(net, params)
    save_file({key: np.ascontiguousarray(x) for key, x in state.items()}, folder / f"{name}.torch.safetensors")
    (folder / f"{name}.torch.json").write_text(json.dumps(config))
    save_network(folder, name, net, params)


def in_torch(net: Any, params: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A network's PyTorch state and sizes, as `Theirs.hold` takes them."""
    from diffbir_jax.models.swinir import SwinIR
    from diffbir_jax.models.unet import UNet, UNetEncoder
    from diffbir_jax.weights.diffusers_folder import configuration
    from diffbir_jax.weights.folder import sizes
    from diffbir_jax.weights.released import released
    from diffbir_jax.weights.tables import diffusers
    from diffbir_jax.weights.torch_format import to_torch

    if isinstance(net, SwinIR):
        return released(net, params), sizes(net)
    if isinstance(net, UNetEncoder):
        net = UNet(**{f: getattr(net, f) for f in UNetEncoder.__dataclass_fields__ if f not in ("parent", "name")})
    return to_torch(params, diffusers.rows(params, [])), configuration(net)


def inputs(row: str, steps: int, side: int = 0, batch: int = 1, width: int = 1024, factor: int = 8) -> dict[str, np.ndarray]:
    """The arguments of a row, NHWC: images of `side` pixels, latents a `factor` smaller, a context `width` wide."""
    rng, side = np.random.default_rng(0), side or (256 if row == "train" else 512)
    normal = partial(rng.standard_normal, dtype=np.float32)
    y, x, c = np.ogrid[:side, :side, :3]
    image = 0.5 + 0.4 * np.sin(x / 17 + c) * np.cos(y / 23) + 0.03 * normal((batch, side, side, 3))
    given = {"image": np.clip(image, 0, 1).astype(np.float32), "t": np.full(batch, 601, np.int32)}
    latent = (side // factor, side // factor, 4)
    given |= {name: normal((batch, *latent)) for name in ("z_t", "cond")}
    given |= {"context": normal((batch, 77, width)), "noise": normal((batch, steps if row == "restore" else 1, *latent))}
    return given


class Ours:
    """Our side: `prepare` compiles and returns what is timed. Networks are loaded and compiled as for restoring, or training."""

    def __init__(self, folder: Path, names: tuple[str, ...], threads: int, training: bool):
        import jax

        from diffbir_jax.model import _load
        from diffbir_jax.weights.folder import load_network

        plain = partial(load_network, dtype=np.float32, put=jax.device_put)
        loaded = {name: plain(folder, name) if training else _load(folder, np.float32, name) for name in names}
        self.nets, self.params = ({name: pair[i] for name, pair in loaded.items()} for i in (0, 1))
        self.folder, self.facts = folder, {}

    def prepare(self, row: str, given: dict[str, np.ndarray], steps: int) -> Run | dict[str, Run]:
        if row == "train":
            return self.train(given)
        if row == "restore":
            return self.restore(given, steps)
        if row == "ceiling":
            return self.products()
        import jax

        from diffbir_jax.programs import cpu_options, trim
        from diffbir_jax.training.cost import counted, whole
        from diffbir_jax.weights.released import shapes_of

        function, names = getattr(self, row), ("z_t", "t", "context", "cond") if row == "unet" else ("image",)
        arguments = [jax.device_put(given["cond"] if row == "decode" else given[name]) for name in names]
        nets, shapes = ({name: of(net) for name, net in self.nets.items()} for of in (whole, shapes_of))
        self.facts["flops"] = counted(partial(function, nets), shapes, *arguments)
        begun = time.perf_counter()
        options = cpu_options(NETWORKS[row])
        program = jax.jit(partial(function, self.nets)).lower(self.params, *arguments).compile(compiler_options=options)
        self.facts["compile"] = {row: time.perf_counter() - begun}
        trim()
        return lambda: np.asarray(program(self.params, *arguments))

    @staticmethod
    def unet(nets: Any, params: Any, z_t: Any, t: Any, context: Any, cond: Any) -> Any:
        control = nets["control"].apply({"params": params["control"]}, z_t, t, context, cond)
        return nets["unet"].apply({"params": params["unet"]}, z_t, t, context, control)

    @staticmethod
    def swinir(nets: Any, params: Any, image: Any) -> Any:
        return nets["stage1"].apply({"params": params["stage1"]}, image)

    @staticmethod
    def encode(nets: Any, params: Any, image: Any) -> Any:
        return nets["autoencoder"].apply({"params": params["autoencoder"]}, image, method="encode")

    @staticmethod
    def decode(nets: Any, params: Any, latent: Any) -> Any:
        return nets["autoencoder"].apply({"params": params["autoencoder"]}, latent, method="decode")

    def products(self) -> Run:
        import jax

        product = jax.jit(lambda x: x @ x)
        squares = [jax.device_put(np.ones((n, n), np.float32)) for n in PRODUCTS]
        jax.block_until_ready([product(x) for x in squares])
        return lambda: max(_rate(n, lambda x=x: jax.block_until_ready(product(x))) for n, x in zip(PRODUCTS, squares, strict=True))

    def train(self, given: dict[str, np.ndarray], **changes: Any) -> Run:
        """The training's own step: AdamW at 1e-5, the gradient clipped to 1; float32, but for changes of the recipe."""
        import jax
        from jax.sharding import Mesh

        from diffbir_jax.training.config import paper_stage2
        from diffbir_jax.training.networks import Setup, as_computed, make_objective
        from diffbir_jax.training.state import init_state, make_optimizer
        from diffbir_jax.training.steps import make_step
        from diffbir_jax.weights.registry import PRESETS

        own = {"precision": "f32", "frozen_precision": "f32", "remat": False, "conv_implementation": "cpu"} | changes
        config = paper_stage2("full", **own, optimizer__learning_rate=1e-5)
        nets = {name: as_computed(net, config) for name, net in self.nets.items()}
        frozen = {**self.params, "empty": given["context"][:1]}
        params = {"control": jax.tree.map(lambda x: jax.numpy.asarray(x, np.float32), frozen.pop("control"))}
        self.params = None
        objective = make_objective(config, Setup(nets, params, frozen, PRESETS["v1-general"].sampling))
        optimizer = make_optimizer(config.optimizer, config.steps)
        state = jax.jit(partial(init_state, optimizer=optimizer, ema=False))(params)
        del params
        batch = {"hq": given["image"], "lq": given["image"] ** 2, "index": np.arange(len(given["image"]), dtype=np.int32)}
        arguments = (frozen, jax.tree.map(jax.numpy.asarray, batch), jax.random.key(0))
        begun = time.perf_counter()
        mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
        step = make_step(objective, optimizer, mesh, clip=config.optimizer.clip).lower(state, *arguments).compile()
        self.facts["compile"], self.program = {"train": time.perf_counter() - begun}, step

        def run() -> None:
            nonlocal state
            state, metrics = step(state, *arguments)
            jax.block_until_ready(metrics)

        return run

    def restore(self, given: dict[str, np.ndarray], steps: int) -> dict[str, Run]:
        """`restore_jobs` with recorded noise, and at the other speeds; the programs are compiled before, none comes from disk."""
        from diffbir_jax import programs
        from diffbir_jax.options import SPEEDS
        from diffbir_jax.pipeline import local_mesh, restore_jobs

        jobs = self.jobs(given, steps, SPEEDS)
        model, mesh, frame = jobs["exact"].model, local_mesh(1), jobs["exact"].frame
        with tempfile.TemporaryDirectory() as home:
            os.environ["DIFFBIR_JAX_HOME"] = home
            for of in (programs.stage1_program, programs.encode_program, programs.decode_program):
                of(model, mesh, 1, frame)
            for job in jobs.values():
                programs.sample_program(model, mesh, 1, frame, job.plan)
        self.facts["compile"] = dict(zip(jobs, programs.compiled[3:], strict=True))

        def run(job: Any) -> np.ndarray:
            [(_, result)] = restore_jobs([(0, job)], mesh)
            return result.image[None]

        return {name: partial(run, job) for name, job in jobs.items()}

    def jobs(self, given: dict[str, np.ndarray], steps: int, speeds: Iterable[str] = ()) -> dict[str, Any]:
        """The restoration at each speed, and the exact one with recorded noise."""
        from diffbir_jax.model import Model
        from diffbir_jax.options import RestoreOptions
        from diffbir_jax.pipeline import Job
        from diffbir_jax.programs import Draws

        side = given["image"].shape[1]
        sampling = {"parameterisation": "v", "zero_snr": False, "short_edge": side, "multiple": 64, "padding": "zero"}
        model = Model(self.nets, self.params, sampling, {}, self.folder, {"": given["context"][0]})
        common, draws = {"start": "noise", "tiles": "off"}, Draws(given["z_t"], given["noise"])
        options = {name: RestoreOptions(speed=name, **common).completed({}) for name in speeds}
        options["exact"] = RestoreOptions(steps=steps, sampler="ddpm", **common).completed({})
        return {name: Job(model, given["image"][0], of, draws if name == "exact" else None) for name, of in options.items()}


class Theirs:
    """PyTorch's side."""

    def __init__(self, folder: Path, names: tuple[str, ...], threads: int, training: bool):
        import torch
        from safetensors.torch import load_file

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.torch, self.facts, self.nets = torch, {}, {}
        if not names:
            return
        for name in names:
            state = load_file(folder / f"{name}.torch.safetensors")
            self.hold(name, state, json.loads((folder / f"{name}.torch.json").read_text()))

    def hold(self, name: str, state: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """A network of these weights."""
        import diffusers
        import theirs

        self.theirs = theirs
        classes = {"unet": diffusers.UNet2DConditionModel, "autoencoder": diffusers.AutoencoderKL}
        if name == "stage1":
            self.nets[name] = partial(theirs.swinir, state, SimpleNamespace(**config))
        elif name == "control":
            self.nets[name] = theirs.ControlBranch(config, state)
        else:
            self.nets[name], _ = theirs.module(classes[name], config, state)

    def prepare(self, row: str, given: dict[str, np.ndarray], steps: int) -> Run:
        if row == "ceiling":
            squares = [self.torch.ones(n, n) for n in PRODUCTS]
            return lambda: max(_rate(n, lambda x=x: x @ x) for n, x in zip(PRODUCTS, squares, strict=True))
        maps = {name: self.theirs.nchw(x) for name, x in given.items() if name in ("image", "z_t", "cond")}
        given = maps | {name: self.torch.from_numpy(given[name]) for name in ("t", "context", "noise")}
        if row == "train":
            return self.train(given)
        run = partial(getattr(self, row), given)
        return lambda: self._without_gradient(run)

    def _without_gradient(self, run: Callable) -> np.ndarray:
        with self.torch.no_grad():
            return np.moveaxis(run().numpy(), 1, -1)

    def predict(self, z_t: Any, cond: Any, t: Any, context: Any) -> Any:
        control = self.nets["control"](z_t, cond, t, context)
        return self.theirs.controlled(self.nets["unet"], control, z_t, t, context)

    def unet(self, given: dict[str, Any]) -> Any:
        return self.predict(given["z_t"], given["cond"], given["t"], given["context"])

    def swinir(self, given: dict[str, Any]) -> Any:
        return self.nets["stage1"](given["image"])

    def latent(self, image: Any) -> Any:
        return self.nets["autoencoder"].encode(2 * image - 1).latent_dist.mode() * 0.18215

    def image(self, latent: Any) -> Any:
        return (self.nets["autoencoder"].decode(latent / 0.18215).sample + 1) / 2

    def encode(self, given: dict[str, Any]) -> Any:
        return self.latent(given["image"])

    def decode(self, given: dict[str, Any]) -> Any:
        return self.image(given["cond"])

    def train(self, given: dict[str, Any]) -> Run:
        torch, trained = self.torch, list(self.nets["control"].parameters())
        for name in ("unet", "autoencoder"):
            self.nets[name].requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        where = given["image"].device
        optimizer = torch.optim.AdamW(trained, lr=1e-5, betas=(0.9, 0.999), weight_decay=0.01, fused=where.type == "cuda" or None)
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        abar = torch.cumprod(1 - betas, 0).float()[:, None, None, None].to(where)

        def run() -> None:
            with torch.no_grad():
                reg = self.swinir({"image": given["image"] ** 2})
                z0, cond = self.latent(torch.cat([given["image"], reg])).chunk(2)
            t, eps = torch.randint(1000, (len(z0),), device=where), torch.randn_like(z0)
            z_t = abar[t].sqrt() * z0 + (1 - abar[t]).sqrt() * eps
            loss = ((self.predict(z_t, cond, t, given["context"]) - eps) ** 2).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return run

    def restore(self, given: dict[str, Any]) -> Any:
        """Spaced DDPM with v prediction, then stage 1's colours."""
        torch, noise = self.torch, given["noise"].moveaxis(-1, 2)
        steps = noise.shape[1]
        betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        at = np.round(np.cumsum([0.0] + [999 / max(steps - 1, 1)] * (steps - 1))).astype(int)
        abar = np.cumprod(1 - betas)[at]
        before = np.append(1.0, abar[:-1])
        reg = self.swinir(given)
        cond, z, times = self.latent(reg), given["z_t"], torch.from_numpy(at).to(given["z_t"].device)
        for n, i in enumerate(reversed(range(steps))):
            alpha = abar[i] / before[i]
            v = self.predict(z, cond, times[i : i + 1], given["context"])
            z0 = float(abar[i] ** 0.5) * z - float((1 - abar[i]) ** 0.5) * v
            mean = float(before[i] ** 0.5 * (1 - alpha) / (1 - abar[i])) * z0
            mean = mean + float(alpha**0.5 * (1 - before[i]) / (1 - abar[i])) * z
            z = mean + float(((1 - alpha) * (1 - before[i]) / (1 - abar[i])) ** 0.5) * noise[:, n]
        return self.coloured(self.image(z), reg)

    def coloured(self, decoded: Any, reg: Any) -> Any:
        """With stage 1's colours (wavelet fix)."""
        return (decoded - self.smooth(decoded) + self.smooth(reg)).clip(0, 1)

    def smooth(self, image: Any) -> Any:
        functional, taps = self.torch.nn.functional, image.new_tensor([0.25, 0.5, 0.25])
        kernel = (taps[:, None] * taps[None]).expand(3, 1, 3, 3)
        for step in (1, 2, 4, 8, 16):
            image = functional.conv2d(functional.pad(image, (step,) * 4, "replicate"), kernel, groups=3, dilation=step)
        return image


def _rate(n: int, product: Callable) -> float:
    """FLOP/s of a product of two n x n matrices."""
    begun = time.perf_counter()
    product()
    return 2 * n**3 / (time.perf_counter() - begun)
