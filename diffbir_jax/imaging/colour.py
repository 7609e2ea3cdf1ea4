"""Colour fixes: the details of one image with the colours of another."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffbir_jax.types import Image

LEVELS = 5


Size = tuple[ArrayLike, ArrayLike]  # height, width


def wavelet_colour_fix(content: Image, style: Image, size: Size | None = None) -> Image:
    """The high frequencies of `content` on the low frequencies of `style` (à trous wavelet; StableSR, DiffBIR's last step).

    Only the first `size` (height, width; may be traced) pixels count and are right; None: all.
    """
    return content - low_frequencies(content, size) + low_frequencies(style, size)


def low_frequencies(image: Image, size: Size | None = None) -> Image:
    """`image` smoothed 5 times by the taps 1/4, 1/2, 1/4 of both directions, dilated 1, 2, 4, …; borders are replicated."""
    height, width = size or image.shape[1:3]
    for level in range(LEVELS):
        image = _smooth(_smooth(image, 1, 2**level, height), 2, 2**level, width)
    return image


def adain_colour_fix(content: Image, style: Image, eps: float = 1e-5) -> Image:
    """`content` with the mean and standard deviation of `style`, per image and channel (AdaIN, Huang & Belongie 2017)."""
    mean, std = _moments(content, eps)
    style_mean, style_std = _moments(style, eps)
    return (content - mean) / std * style_std + style_mean


def _smooth(image: Image, axis: int, step: int, length: ArrayLike) -> Image:
    at = jnp.arange(image.shape[axis])
    before = jnp.take(image, jnp.maximum(at - step, 0), axis)
    after = jnp.take(image, jnp.minimum(at + step, length - 1), axis)
    return (before + 2 * image + after) / 4


def _moments(image: Image, eps: float) -> tuple[Float[Array, "B 1 1 3"], Float[Array, "B 1 1 3"]]:
    """Mean and standard deviation (unbiased, eps added to the variance)."""
    mean = image.mean((1, 2), keepdims=True)
    return mean, jnp.sqrt(image.var((1, 2), keepdims=True, ddof=1) + eps)
