"""Colour fixes: the details of one image with the colours of another."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Float32

from diffbir_jax.types import Image

LEVELS = 5
REACH = 2**LEVELS - 1  # pixels to each side that a smoothed pixel depends on

Size = tuple[ArrayLike, ArrayLike]  # height, width


def wavelet_colour_fix(content: Image, style: Image, size: Size | None = None) -> Image:
    """The high frequencies of `content` on the low frequencies of `style` (à trous wavelet; StableSR, DiffBIR's last step).

    Only the first `size` (height, width; may be traced) pixels count and are right; None: all.
    """
    return content - low_frequencies(content, size) + low_frequencies(style, size)


def wavelet_colour_fix_in_strips(
    content: Float32[np.ndarray, "1 H W 3"], style: Float32[np.ndarray, "1 H W 3"], size: Size | None = None, rows: int = 256
) -> Float32[np.ndarray, "1 H W 3"]:
    """`wavelet_colour_fix` of an image that the device does not hold whole, `rows` rows at a time; the same numbers."""
    length, (height, width) = content.shape[1], size or content.shape[1:3]
    seen, out = min(rows + 2 * REACH, length), np.empty_like(content)
    for top in range(0, length, rows):
        start = min(max(top - REACH, 0), length - seen)
        strip, left = slice(start, start + seen), (np.int32(max(height - start, 1)), np.int32(width))
        fixed = np.asarray(_fix(content[:, strip], style[:, strip], left))
        out[:, top : top + rows] = fixed[:, top - start : top - start + rows]
    return out


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


_fix = jax.jit(wavelet_colour_fix)


def _smooth(image: Image, axis: int, step: int, length: ArrayLike) -> Image:
    at = jnp.arange(image.shape[axis])
    before = jnp.take(image, jnp.maximum(at - step, 0), axis)
    after = jnp.take(image, jnp.minimum(at + step, length - 1), axis)
    return (before + 2 * image + after) / 4


def _moments(image: Image, eps: float) -> tuple[Float[Array, "B 1 1 3"], Float[Array, "B 1 1 3"]]:
    """Mean and standard deviation (unbiased, eps added to the variance)."""
    mean = image.mean((1, 2), keepdims=True)
    return mean, jnp.sqrt(image.var((1, 2), keepdims=True, ddof=1) + eps)
