"""Bringing images to the sizes at which the networks work, as DiffBIR does."""

import numpy as np
from jaxtyping import Float32
from PIL import Image

Photo = Float32[np.ndarray, "H W 3"]
Resized = Float32[np.ndarray, "h w 3"]
Size = tuple[int, int]  # height, width
STRIP = 16


def target_size(size: Size, upscale: int | float = 1, long_side: int | None = None) -> Size:
    """`size` times `upscale`, or with a longer side of `long_side` pixels."""
    factor = long_side / max(size) if long_side else upscale
    return tuple(max(1, round(n * factor)) for n in size)


def bucket(length: int, multiple: int) -> int:
    """The least of multiple x 1, 2, 3, 4, 6, 8, 12, 16, … that holds `length`: few, at most half larger."""
    halves = (multiple * n << k for k in range(64) for n in (2, 3))
    return multiple if length <= multiple else next(n for n in halves if n >= length)


def short_edge(size: Size, least: int) -> Size:
    """`size`, enlarged to a shorter side of `least` pixels where it is smaller; the longer side is rounded down.

    A strip is enlarged only until its longer side has STRIP times `least`: its pixels would grow with the square of the factor.
    """
    short, long = min(size), max(size)
    if short >= least or long >= STRIP * least:
        return size
    if long * least > STRIP * least * short:
        return tuple(STRIP * least if n == long else int(n * (STRIP * least / long)) for n in size)
    return tuple(least if n == short else int(n * (least / short)) for n in size)


def enlarge(image: Photo, size: Size) -> Resized:
    """The user's own scaling of an image in [0, 1]: Pillow's bicubic filter, on 8 bits if the image has no more."""
    if size == image.shape[:2]:
        return image
    pixels = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    if not np.allclose(pixels / np.float32(255), image, atol=1e-4):
        return resize(image, size)
    return _bicubic(Image.fromarray(pixels), size).astype(np.float32) / np.float32(255)


def _bicubic(image: Image.Image, size: Size) -> np.ndarray:
    return np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC))


def resize(image: Float32[np.ndarray, "H W C"], size: Size) -> Float32[np.ndarray, "h w C"]:
    """Bicubic (a = -1/2), antialiased where it shrinks, overshoots kept: PyTorch's `interpolate(…, antialias=True)`."""
    if size == image.shape[:2]:
        return image
    return np.stack([_bicubic(Image.fromarray(channel), size) for channel in np.moveaxis(image, -1, 0)], axis=-1)
