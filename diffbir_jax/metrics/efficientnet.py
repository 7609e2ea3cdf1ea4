"""EfficientNet-Lite0 (Tan and Le 2019; no squeeze-and-excitation, ReLU6): 1280 features an image, for distances between sets."""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from PIL import Image

from diffbir_jax.metrics.layers import Maps, conv
from diffbir_jax.metrics.stored import torch_state
from diffbir_jax.packages import Archives

SIDE = 224
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)  # a block each
Weights = Mapping[str, Array]


def load_efficientnet(archives: Archives) -> Callable[[Float[np.ndarray, "H W 3"]], Float[np.ndarray, "1280"]]:
    """The features of an image, resized as a whole to 224x224 (bicubic, antialiased, as clean-fid does).

    Raises:
        Unavailable: the package is not there.
    """
    weights = fold(torch_state(archives.read("efficientnet-lite0-57934424.pth")))
    network = jax.jit(efficientnet)
    return lambda image: np.asarray(network(weights, jnp.asarray(square(image))[None])[0])


def square(image: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, "224 224 3"]:
    """The whole image at the network's size."""
    channels = (Image.fromarray(channel) for channel in np.moveaxis(image.astype(np.float32), -1, 0))
    return np.stack([np.asarray(channel.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for channel in channels], axis=-1)


def fold(state: Mapping[str, np.ndarray]) -> dict[str, Array]:
    """Every convolution as HWIO with the scale of its batch norm in it, "NAME", and the shift after it, "NAME/shift"."""
    found = {}
    for name in (key.removesuffix(".weight") for key, value in state.items() if value.ndim == 4):
        norm = f"{name.rpartition('.')[0]}." * ("." in name) + _norm_after(name)
        scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + 1e-3)
        found[name] = jnp.asarray(np.transpose(state[f"{name}.weight"], (2, 3, 1, 0)) * scale)
        found[f"{name}/shift"] = jnp.asarray(state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale).reshape(1, 1, 1, -1)
    return found


def _norm_after(name: str) -> str:
    after = {"_conv_stem": "_bn0", "_conv_head": "_bn1", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
    return after[name.rpartition(".")[2]]


def efficientnet(weights: Weights, image: Float[Array, "B 224 224 3"]) -> Float[Array, "B 1280"]:
    """The pooled features before the classifier; the image is RGB in [0, 1]."""
    x = jax.nn.relu6(_normed((255 * image - 127) / 128, weights, "_conv_stem", stride=2))
    for number, stride in enumerate(STRIDES):
        x = _block(x, weights, f"_blocks.{number}.", stride)
    return jax.nn.relu6(_normed(x, weights, "_conv_head")).mean((1, 2))


def _block(x: Maps, weights: Weights, name: str, stride: int) -> Maps:
    """Widen, filter each channel, narrow again; plus the input where the sizes agree."""
    at = partial(_normed, weights=weights)
    h = jax.nn.relu6(at(x, name=f"{name}_expand_conv")) if f"{name}_expand_conv" in weights else x
    h = jax.nn.relu6(at(h, name=f"{name}_depthwise_conv", stride=stride, groups=h.shape[-1]))
    h = at(h, name=f"{name}_project_conv")
    return x + h if h.shape == x.shape else h


def _normed(x: Maps, weights: Weights, name: str, stride: int = 1, groups: int = 1) -> Maps:
    return conv(x, weights[name], stride, groups=groups) + weights[f"{name}/shift"]
