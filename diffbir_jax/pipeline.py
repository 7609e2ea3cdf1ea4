"""The two stages as one function of a model, images and options."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Key

from diffbir_jax.diffusion import guidance, noise, samplers
from diffbir_jax.diffusion.schedule import SCALED_LINEAR, ZERO_SNR, Steps, below, ddim_rows, denoiser, spaced
from diffbir_jax.errors import InputError
from diffbir_jax.imaging.colour import wavelet_colour_fix
from diffbir_jax.imaging.resizing import Photo, Resized, Size, enlarge, resize, short_edge
from diffbir_jax.model import Model
from diffbir_jax.options import RestoreOptions
from diffbir_jax.types import Image, Latent

LEAST_SIDE = 16
SAMPLERS = {"ddpm": samplers.ddpm, "ddim": samplers.ddim}
ROWS = {"ddpm": spaced, "ddim": ddim_rows}
# With it, and barriers around the networks, a weight that is stored in another type is cast when it is used, not all at once.
MEMORY_FIRST = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


class Draws(NamedTuple):
    """Noise drawn elsewhere, to replay a restoration: NHWC, of the padded latent's size. All is standard normal, `start` too."""

    start: Float32[np.ndarray, "1 h w c"]
    steps: Float32[np.ndarray, "N 1 h w c"]


def restore_images(model: Model, images: list[np.ndarray], options: RestoreOptions | None = None) -> list[np.ndarray]:
    """Restores photographs: stage 1, then the guided diffusion, then stage 1's colours (wavelet fix).

    Args:
        model: from `load_model`.
        images: float32 [H, W, 3] in [0, 1], each at least 16 pixels a side.
        options: see RestoreOptions.

    Returns:
        float32 [round(H * upscale), round(W * upscale), 3] in [0, 1], in order; each depends on its image and the options alone.

    Raises:
        InputError: an image of another shape or type, or too small; a prompt for a model that takes no text.

    >>> import numpy as np
    >>> from diffbir_jax import RestoreOptions, load_model, restore_images
    >>> photo = np.full((48, 64, 3), 0.5, np.float32)
    >>> [restored] = restore_images(load_model("tiny"), [photo], RestoreOptions(steps=2, upscale=2))
    >>> restored.shape
    (96, 128, 3)
    """
    return [Job(model, image, options or RestoreOptions()).run()[0] for image in images]


def step_count(model: Model, options: RestoreOptions) -> int:
    """Denoising steps that a restoration takes: 0 when it stops after stage 1."""
    options = options.completed(model.defaults)
    return 0 if options.stage1_only else len(rows_of(model, options).t)


def rows_of(model: Model, options: RestoreOptions) -> Steps:
    """The sampler's rows, of completed options: the last `strength` of them (SDEdit, Meng et al. 2022), at least one."""
    rows = ROWS[options.sampler](options.steps, schedule_of(model))
    return below(rows, max(round(options.strength * (len(schedule_of(model).betas) - 1)), int(rows.t[-1])))


def schedule_of(model: Model):
    """The noise schedule that the model was trained with."""
    return ZERO_SNR if model.sampling["zero_snr"] else SCALED_LINEAR


class Plan(NamedTuple):
    """What a compiled program is made for; everything else about a restoration is an argument of it."""

    rows: int
    sampler: str
    start: str
    space: str
    repeats: int
    text: str  # "": one network call a step; "cfg" or "rescaled": one with and one without the prompt
    replay: bool
    keep: bool


class Knobs(NamedTuple):
    """Everything of a restoration that may change without a new compilation."""

    size: Int[np.ndarray, "2"]
    keys: Key[Array, "1"]
    rows: Steps
    guidance_scale: Float[np.ndarray, ""]
    window: Int[np.ndarray, "2"]
    control_strength: Float[np.ndarray, ""]
    cfg: Float[np.ndarray, ""]
    context: Float[Array, "n T D"] | None
    draws: Draws | None


class Job:
    """One image on its way: the sizes it takes and the data that the programs are given.

    Stage 1 of the SwinIR kind sees the enlarged image, its shorter side at least `short_edge`, padded; SCUNet the enlarged image;
    RRDBNet enlarges by itself. What leaves stage 1 is brought to the size at which the diffusion works.

    Args:
        draws: used instead of noise from the seed.
        keep: whether `run` returns what came before the result.

    Raises:
        InputError: the image is of another shape or type, or too small; on running, draws of another size or number, or a prompt
            for a model that takes no text.
    """

    def __init__(self, model: Model, image: np.ndarray, options: RestoreOptions, draws: Draws | None = None, keep: bool = False):
        _check(image)
        options = options.completed(model.defaults)
        self.model, self.options, self.draws, self.keep = model, options, draws, keep
        self.target = tuple(max(1, round(n * options.upscale)) for n in image.shape[:2])
        self.kind = type(model.nets["stage1"]).__name__
        self.reg_size = short_edge(self.target, model.sampling["short_edge"])
        if self.kind != "RRDBNet":
            image = enlarge(image, self.target)
        if self.kind == "SwinIR":
            image = resize(image, self.reg_size)
        self.size = image.shape[:2]
        self.lq = (self._padded(image) if self.kind == "SwinIR" else image)[None]
        with_text = "rescaled" if options.rescale_cfg else "cfg" if options.cfg != 1 else ""
        self.plan = Plan(
            step_count(model, options), options.sampler, options.start, options.guidance_space, options.guidance_repeats,
            with_text, draws is not None, keep,
        )  # fmt: skip

    def compile(self) -> float:
        """Compiles what the restoration needs, unless it is there already; the seconds it took."""
        begun = time.perf_counter()
        stage1_program(self.model, self.lq.shape[1:3])
        if not self.options.stage1_only:
            program(self.model, self.frame_size(self.reg_size), self.plan)
        return time.perf_counter() - begun

    def run(self) -> tuple[Photo, dict[str, np.ndarray]]:
        """The result, and, where `keep`, what came before it.

        That is, NHWC and images in [0, 1]: "lq" as stage 1 saw it, "reg", "cond_latent", "context" (the prompt's, then the negative
        prompt's), "z" after every step, "decoded", "fixed" (with stage 1's colours).
        """
        reg = self.stage1()
        traced = {"lq": self.lq, "reg": reg[None]}
        if not self.options.stage1_only:
            frame, knobs = self.frame(reg), self.knobs(reg.shape[:2])
            output, more = program(self.model, frame.shape[1:3], self.plan)(self.model.params, frame, knobs)
            reg = np.asarray(output)[0, : reg.shape[0], : reg.shape[1]]
            traced |= {"context": knobs.context} | more
        kept = {k: np.asarray(v) for k, v in traced.items() if self.keep and v is not None}
        return np.clip(resize(reg, self.target), 0, 1), kept

    def stage1(self) -> Resized:
        """The image without its degradation, at the size at which the diffusion works."""
        reg = np.asarray(stage1_program(self.model, self.lq.shape[1:3])(self.model.params["stage1"], self.lq))[0]
        reg = reg if self.kind == "RRDBNet" else reg[: self.size[0], : self.size[1]]
        return resize(reg, self.reg_size)

    def frame_size(self, size: Size) -> Size:
        """The padded size."""
        return tuple(n + -n % self.model.sampling["multiple"] for n in size)

    def frame(self, reg: Resized) -> Float32[np.ndarray, "1 H W 3"]:
        """Stage 1's image, padded anew: no network has touched the padding."""
        return self._padded(reg)[None]

    def knobs(self, size: Size) -> Knobs:
        """The traced part of the options, for an image that covers `size` of its frame."""
        options, text = self.options, bool(self.plan.text)
        if text and not self.model.takes_text:
            raise InputError("this model takes no text; leave out --cfg and --rescale-cfg")
        context = self.model.context(options.prompt, *([options.negative_prompt] if text else []))
        knobs = example_knobs(self.model, self.plan, size, context)
        scales = (options.guidance_scale, options.control_strength, options.cfg)
        guidance_scale, control_strength, cfg = (np.asarray(x, np.float32) for x in scales)
        return knobs._replace(
            keys=jax.random.key(options.seed)[None],
            rows=rows_of(self.model, options),
            guidance_scale=guidance_scale,
            window=np.array([options.guidance_stop, options.guidance_start], np.int32),
            control_strength=control_strength,
            cfg=cfg,
            draws=self._checked_draws(size),
        )

    def _checked_draws(self, size: Size) -> Draws | None:
        if self.draws is None:
            return None
        latent = _latent_shape(self.model, self.frame_size(size))
        if self.draws.start.shape != latent or self.draws.steps.shape != (self.plan.rows, *latent):
            given = f"x_T {list(self.draws.start.shape)} and noise {list(self.draws.steps.shape)}"
            raise InputError(f"the noise is {given} (NHWC); this image takes {list(latent)} and {[self.plan.rows, *latent]}")
        return self.draws

    def _padded(self, image: Resized) -> Float32[np.ndarray, "H W 3"]:
        pad = [(0, -n % self.model.sampling["multiple"]) for n in image.shape[:2]]
        return np.pad(image, (*pad, (0, 0)), mode="edge" if self.model.sampling["padding"] == "edge" else "constant")


def example_knobs(model: Model, plan: Plan, size: Size, context: Any) -> Knobs:
    """Knobs of the right shapes and types."""
    row = ROWS[plan.sampler](1, schedule_of(model))
    rows = Steps(*(jax.ShapeDtypeStruct((plan.rows,), column.dtype) for column in row))
    zero, window, key = np.zeros((), np.float32), np.zeros(2, np.int32), jax.random.key(0)[None]
    return Knobs(np.array(size, np.int32), key, rows, zero, window, zero, zero, context, None)


def _latent_shape(model: Model, frame: Size) -> tuple[int, ...]:
    net = model.nets["autoencoder"]
    return (1, *(n // net.downsampling_factor for n in frame), net.latent_channels)


@functools.lru_cache(maxsize=64)
def stage1_program(model: Model, shape: Size) -> Callable[..., Image]:
    """The compiled stage 1 (params, lq) -> image of inputs of one shape."""
    lq = jax.ShapeDtypeStruct((1, *shape, 3), jnp.float32)
    run = jax.jit(lambda params, lq: model.nets["stage1"].apply({"params": params}, lq))
    return run.lower(model.params["stage1"], lq).compile()


@functools.lru_cache(maxsize=64)
def program(model: Model, shape: Size, plan: Plan) -> Callable[..., tuple[Image, dict[str, Array]]]:
    """The compiled stage 2 (params, frame, knobs) -> (image, what was kept) of frames of one shape."""
    context = None
    if model.takes_text:
        context = jax.ShapeDtypeStruct((2 if plan.text else 1, *model.context_shape), jnp.float32)
    knobs, latent = example_knobs(model, plan, shape, context), _latent_shape(model, shape)
    if plan.replay:
        shapes = Draws(latent, (plan.rows, *latent))
        knobs = knobs._replace(draws=Draws(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)))
    frame = jax.ShapeDtypeStruct((1, *shape, 3), jnp.float32)
    lowered = jax.jit(functools.partial(_sample, model, plan)).lower(model.params, frame, knobs)
    return lowered.compile(compiler_options=MEMORY_FIRST if model.casts else None)


def _sample(model: Model, plan: Plan, params: dict[str, Any], reg: Image, knobs: Knobs) -> tuple[Image, dict[str, Array]]:
    def call(name: str, *inputs: Any, method: str | None = None) -> Any:
        held, inputs = jax.lax.optimization_barrier((params[name], inputs)) if model.casts else (params[name], inputs)
        return model.nets[name].apply({"params": held}, *inputs, method=method)

    cond_latent = call("autoencoder", reg, method="encode")

    def predict(z_t: Latent, t: Int[Array, "B"], given: tuple[Any, Latent]) -> Latent:
        jax.debug.callback(_tick)
        context, cond = given
        control = call("control", z_t, t, context, cond)
        return call("unet", z_t, t, context, tuple(knobs.control_strength * c for c in control))

    def given(i: int) -> tuple[Any, Latent]:
        return None if knobs.context is None else knobs.context[i : i + 1], cond_latent

    def plain(z_t: Latent, t: Int[Array, "B"]) -> Latent:
        return predict(z_t, t, given(0))

    guided = guidance.cfg(predict, given(0), given(1), knobs.cfg, plan.text == "rescaled") if plan.text else plain
    denoise = denoiser(guided, schedule_of(model), model.sampling["parameterisation"])
    decode = functools.partial(call, "autoencoder", method="decode")
    how = (knobs.guidance_scale, plan.repeats, tuple(knobs.window))
    latent_space = plan.space == "latent"
    guide = guidance.latent_guidance(cond_latent, *how) if latent_space else guidance.rgb_guidance(decode, reg, *how)
    draws = noise.recorded(knobs.rows, knobs.draws.steps) if plan.replay else noise.streams(knobs.keys)
    start = knobs.draws.start if plan.replay else draws(len(schedule_of(model).betas), cond_latent)
    if plan.start == "condition":
        start = noise.diffuse(schedule_of(model), cond_latent, knobs.rows.t[0], start)
    z0, trace = SAMPLERS[plan.sampler](denoise, start, knobs.rows, draws, guide)
    decoded = decode(z0)
    fixed = wavelet_colour_fix(decoded, reg, tuple(knobs.size))
    kept = {"cond_latent": cond_latent, "z": trace.z[:, 0], "decoded": decoded, "fixed": fixed}
    return fixed, kept if plan.keep else {}


def _check(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.float32:
        raise InputError(f"an image is {image.dtype} {list(image.shape)}; give float32 [height, width, 3] in [0, 1]")
    if min(image.shape[:2]) < LEAST_SIDE:
        raise InputError(f"the image is {image.shape[1]}x{image.shape[0]}; the least side is {LEAST_SIDE} pixels")


_listeners: list[Callable[[], Any]] = []


def _tick() -> None:
    for listener in _listeners:
        listener()


@contextlib.contextmanager
def on_step(listener: Callable[[], Any]) -> Iterator[None]:
    """Calls `listener` at every denoising step of the restorations made inside."""
    _listeners.append(listener)
    try:
        yield
    finally:
        jax.effects_barrier()
        _listeners.remove(listener)
