"""The two stages as one function of a model, images and options."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from diffbir_jax.diffusion import guidance, noise, samplers
from diffbir_jax.diffusion.schedule import SCALED_LINEAR, ZERO_SNR, Steps, ddim_rows, denoiser, spaced
from diffbir_jax.errors import InputError
from diffbir_jax.imaging.colour import wavelet_colour_fix
from diffbir_jax.options import RestoreOptions
from diffbir_jax.types import Image
from diffbir_jax.weights.folder import load_network, read_card

ASSETS = Path(__file__).parent / "assets"
NETWORKS = ("stage1", "autoencoder", "unet", "control")
LEAST_SIDE = 16
SAMPLERS = {"ddpm": samplers.ddpm, "ddim": samplers.ddim}
ROWS = {"ddpm": spaced, "ddim": ddim_rows}


@dataclass(frozen=True, eq=False)
class Model:
    """Networks, their parameters on the device, and how the model was trained to be sampled.

    Attributes:
        nets: network name (NETWORKS) -> linen module.
        params: network name -> float32 parameters.
        sampling: parameterisation "eps" or "v", zero_snr, short_edge (pixels; smaller images are enlarged), multiple (sizes are
            padded to it), padding "edge" or "zero".
    """

    nets: dict[str, nn.Module]
    params: dict[str, Any]
    sampling: dict[str, Any]


def load_model(name: str | Path = "tiny") -> Model:
    """A model: "tiny", embedded in the package, or a model folder.

    Raises:
        InputError: no such model, or a file of it is missing or damaged.
    """
    folder = ASSETS / name if str(name) in embedded() else Path(name)
    if not folder.is_dir():
        raise InputError(f"model {str(name)!r} is neither embedded ({', '.join(embedded())}) nor a model folder")
    card = read_card(folder)
    loaded = {n: load_network(folder, n, np.float32) for n in NETWORKS}
    params = jax.device_put({n: p for n, (_, p) in loaded.items()})
    return Model({n: net for n, (net, _) in loaded.items()}, params, card["sampling"])


def embedded() -> list[str]:
    """Names of the models in the package."""
    return sorted(p.parent.name for p in ASSETS.glob("*/model.json"))


def restore_images(model: Model, images: list[np.ndarray], options: RestoreOptions | None = None) -> list[np.ndarray]:
    """Restores photographs: stage 1, then the guided diffusion, then stage 1's colours (wavelet fix).

    Args:
        model: from `load_model`.
        images: float32 [H, W, 3] in [0, 1], each at least 16 pixels a side.
        options: see RestoreOptions.

    Returns:
        float32 [round(H * upscale), round(W * upscale), 3] in [0, 1], in order; each depends on its image and the options alone.

    Raises:
        InputError: an image of another shape or type, or too small.

    >>> import numpy as np
    >>> from diffbir_jax import RestoreOptions, load_model, restore_images
    >>> photo = np.full((48, 64, 3), 0.5, np.float32)
    >>> [restored] = restore_images(load_model("tiny"), [photo], RestoreOptions(steps=2, upscale=2))
    >>> restored.shape
    (96, 128, 3)
    """
    options = options or RestoreOptions()
    return [_restore_one(model, image, options) for image in images]


def compile_for(model: Model, image: np.ndarray, options: RestoreOptions) -> float:
    """Compiles what restoring `image` needs, unless it is there already; the seconds it took."""
    begun = time.perf_counter()
    _check(image)
    lq, _, _ = prepare(image, options.upscale, model.sampling)
    program(model, lq.shape[1:3], *static(options))
    return time.perf_counter() - begun


def _check(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.float32:
        raise InputError(f"an image is {image.dtype} {list(image.shape)}; give float32 [height, width, 3] in [0, 1]")
    if min(image.shape[:2]) < LEAST_SIDE:
        raise InputError(f"the image is {image.shape[1]}x{image.shape[0]}; the least side is {LEAST_SIDE} pixels")


def _restore_one(model: Model, image: np.ndarray, options: RestoreOptions) -> np.ndarray:
    _check(image)
    lq, size, target = prepare(image, options.upscale, model.sampling)
    output = program(model, lq.shape[1:3], *static(options))(model.params, lq, knobs(model, size, options))
    output = np.clip(np.asarray(output)[0, : size[0], : size[1]], 0, 1)
    return output if size == target else np.clip(resize(output, target), 0, 1)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bicubic resizing of [H, W, 3] to (height, width), antialiased where it shrinks."""
    return np.asarray(jax.image.resize(image, (*size, image.shape[-1]), "bicubic", antialias=True))


Size = tuple[int, int]


def prepare(image: np.ndarray, upscale: int | float, sampling: dict[str, Any]) -> tuple[np.ndarray, Size, Size]:
    """The networks' input [1, H, W, 3], padded to `multiple`; the size in it that the image covers; the output's size."""
    target = tuple(max(1, round(n * upscale)) for n in image.shape[:2])
    scale = max(1.0, sampling["short_edge"] / min(target))
    size = tuple(round(n * scale) for n in target)
    lq = image if size == image.shape[:2] else np.clip(resize(image, size), 0, 1)
    pad = [(0, -n % sampling["multiple"]) for n in size]
    return np.pad(lq, (*pad, (0, 0)), mode="edge" if sampling["padding"] == "edge" else "constant")[None], size, target


class Knobs(NamedTuple):
    """Everything of a restoration that may change without a new compilation."""

    size: Int[np.ndarray, "2"]
    keys: Key[Array, "1"]
    rows: Steps
    guidance_scale: Float[np.ndarray, ""]
    window: Int[np.ndarray, "2"]
    control_strength: Float[np.ndarray, ""]


def schedule_of(model: Model):
    """The noise schedule that the model was trained with."""
    return ZERO_SNR if model.sampling["zero_snr"] else SCALED_LINEAR


def knobs(model: Model, size: tuple[int, int], options: RestoreOptions) -> Knobs:
    """The traced part of the options, for an image that covers `size` of its padded input."""
    steps = 1 if options.stage1_only else options.steps
    rows = ROWS["ddpm" if options.stage1_only else options.sampler](steps, schedule_of(model))
    window = np.array([options.guidance_stop, options.guidance_start], np.int32)
    scale, strength = np.float32(options.guidance_scale), np.float32(options.control_strength)
    keys = jax.random.key(options.seed)[None]
    return Knobs(np.array(size, np.int32), keys, rows, np.asarray(scale), window, np.asarray(strength))


def static(options: RestoreOptions) -> tuple[Any, ...]:
    """The part of the options that a compiled program is made for."""
    if options.stage1_only:
        return 0, "ddpm", "latent", 1
    return step_count(options), options.sampler, options.guidance_space, options.guidance_repeats


def step_count(options: RestoreOptions) -> int:
    """Denoising steps that a restoration takes: 0 when it stops after stage 1."""
    return 0 if options.stage1_only else len(ROWS[options.sampler](options.steps).t)


@functools.lru_cache(maxsize=64)
def program(model: Model, shape: tuple[int, int], rows: int, sampler: str, space: str, repeats: int) -> Callable[..., Image]:
    """The compiled restoration (params, lq, knobs) -> image of padded inputs of one shape; `rows` 0 stops after stage 1."""
    run = functools.partial(_restore, model, rows=rows, sampler=sampler, space=space, repeats=repeats)
    example = knobs(model, shape, RestoreOptions(steps=1))
    steps = Steps(*(jax.ShapeDtypeStruct((max(rows, 1),), column.dtype) for column in example.rows))
    lq = jax.ShapeDtypeStruct((1, *shape, 3), jnp.float32)
    return jax.jit(run).lower(model.params, lq, example._replace(rows=steps)).compile()


def _restore(
    model: Model, params: dict[str, Any], lq: Image, knobs: Knobs, *, rows: int, sampler: str, space: str, repeats: int
) -> Image:
    def call(name: str, *inputs: Any, method: str | None = None) -> Any:
        return model.nets[name].apply({"params": params[name]}, *inputs, method=method)

    reg = _extend(call("stage1", lq), knobs.size)
    if not rows:
        return reg
    cond_latent = call("autoencoder", reg, method="encode")

    def predict(z_t: Float[Array, "B h w c"], t: Int[Array, "B"]) -> Float[Array, "B h w c"]:
        jax.debug.callback(_tick)
        control = call("control", z_t, t, None, cond_latent)
        return call("unet", z_t, t, None, tuple(knobs.control_strength * c for c in control))

    decode = functools.partial(call, "autoencoder", method="decode")
    if space == "latent":
        guide = guidance.latent_guidance(cond_latent, knobs.guidance_scale, repeats, tuple(knobs.window))
    else:
        guide = guidance.rgb_guidance(decode, reg, knobs.guidance_scale, repeats, tuple(knobs.window))
    denoise = denoiser(predict, schedule_of(model), model.sampling["parameterisation"])
    draws = noise.streams(knobs.keys)
    start = draws(len(schedule_of(model).betas), cond_latent)
    z0, _ = SAMPLERS[sampler](denoise, start, knobs.rows, draws, guide)
    return wavelet_colour_fix(decode(z0), reg, tuple(knobs.size))


def _extend(image: Image, size: Int[Array, "2"]) -> Image:
    """What lies beyond `size` (height, width) replaced by the image's edge: padding that no network has touched."""
    for axis in (0, 1):
        image = jnp.take(image, jnp.minimum(jnp.arange(image.shape[axis + 1]), size[axis] - 1), axis + 1)
    return image


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
