"""The states of the released files: parameters, and the buffers that the original's strict loading wants beside them."""

import functools
from collections.abc import Mapping
from math import isqrt
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from diffbir_jax.diffusion.schedule import SCALED_LINEAR
from diffbir_jax.errors import InputError
from diffbir_jax.models.swinir import SwinIR
from diffbir_jax.types import Params
from diffbir_jax.weights.recognition import GROUPS, State, shape_of
from diffbir_jax.weights.tables import autoencoder, bsrnet, control, scunet, swinir, text_encoder, unet
from diffbir_jax.weights.torch_format import from_torch, to_torch

TABLES = {
    "SwinIR": swinir, "RRDBNet": bsrnet, "SCUNet": scunet, "UNet": unet, "LAControlNet": control,
    "AutoencoderKL": autoencoder, "TextEncoder": text_encoder,
}  # fmt: skip
IMAGE_SIZE = 64  # what the released SwinIRs' masks are for


@functools.lru_cache(maxsize=32)
def shapes_of(net: nn.Module) -> Params:
    """The network's parameters as `jax.eval_shape` gives them."""
    return jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]


def ours(net: nn.Module, state: State) -> tuple[dict[str, Any], list[str]]:
    """A released state as our parameters.

    Returns:
        The parameters, in the types of the state, and the keys that have no use.

    Raises:
        InputError: a key is missing or has another shape, or a buffer's values are not those that follow from the sizes.
    """
    params, unused = from_torch(state, TABLES[type(net).__name__].rows(net), shapes_of(net))
    buffers = swinir.buffers(net, image_size(net, state)) if isinstance(net, SwinIR) else {}
    for key in buffers.keys() & state.keys():
        if not np.array_equal(buffers[key], state[key]):
            raise InputError(f"{key!r} has other values than this network's sizes give: not the original SwinIR")
    return params, [key for key in unused if key not in buffers]


def released(net: nn.Module, params: Params, size: int = IMAGE_SIZE) -> dict[str, np.ndarray]:
    """Our parameters as the original's state, with its buffers: its strict loading accepts it.

    Args:
        net: any network that the original has.
        params: its parameters; arrays keep their type, and stay views where that is possible.
        size: the original's `img_size`, for which SwinIR's masks are stored: side of the map of tokens.

    Raises:
        InputError: the original has no such network.
    """
    check_original_has(net)
    state = to_torch(params, TABLES[type(net).__name__].rows(net))
    if not isinstance(net, SwinIR):
        return state
    if size < 2 * net.window or size % net.window:
        raise InputError(f"the image size is {size}; give a multiple of the window, {net.window}, twice or more")
    kind = state["conv_last.weight"].dtype
    buffers = swinir.buffers(net, size).items()
    return state | {key: x.astype(kind) if key.endswith("attn_mask") else x for key, x in buffers}


def check_original_has(net: nn.Module) -> None:
    """InputError: the original has no such network, so it cannot load it."""
    kind, refused = type(net).__name__, "the original cannot load it"
    if kind not in TABLES:
        raise InputError(f"a {kind} cannot be written for the original: it has none")
    if kind == "SwinIR" and (net.residual or net.upsampler != "nearest+conv"):
        raise InputError(f"this SwinIR adds its output to its input, or has another upsampler, the original does not: {refused}")
    if kind == "AutoencoderKL" and (net.shortcut or net.groups != GROUPS):
        raise InputError(f"this AutoencoderKL has shortcuts or not {GROUPS} groups: {refused}")
    if kind == "UNet" and net.shortcut:
        raise InputError(f"this UNet has a shortcut, the original's does not: {refused}")
    if kind in ("UNet", "LAControlNet") and (net.groups != GROUPS or net.context_dim is None or not any(net.attention)):
        raise InputError(f"the original's {kind} attends to a text, with {GROUPS} groups: {refused}")


def image_size(net: SwinIR, state: State) -> int:
    """The original's `img_size` of a SwinIR's stored masks; 64 if there are none.

    Raises:
        InputError: a mask's shape is that of no size.
    """
    masks = [key for key in state if key.endswith(".attn_mask")]
    if not masks:
        return IMAGE_SIZE
    windows = shape_of(state, masks[0], 3)[0]
    if isqrt(windows) ** 2 != windows:
        raise InputError(f"{masks[0]!r} is for {windows} windows, which make no square image")
    return isqrt(windows) * net.window


def schedule_buffers() -> Mapping[str, np.ndarray]:
    """What version 1's full checkpoints hold of the noise schedule: 13 arrays of 1000, float32."""
    betas = SCALED_LINEAR.betas
    alphas, abar = 1 - betas, np.cumprod(1 - betas)
    before = np.append(1.0, abar[:-1])
    variance = betas * (1 - before) / (1 - abar)
    buffers = {
        "betas": betas,
        "alphas_cumprod": abar,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(abar),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - abar),
        "log_one_minus_alphas_cumprod": np.log(1 - abar),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / abar),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / abar - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(before) / (1 - abar),
        "posterior_mean_coef2": (1 - before) * np.sqrt(alphas) / (1 - abar),
        "logvar": np.zeros(len(betas)),
    }
    return {key: x.astype(np.float32) for key, x in buffers.items()}
