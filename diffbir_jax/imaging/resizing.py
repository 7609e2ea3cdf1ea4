"""Bringing images to the sizes at which the networks work, as DiffBIR does."""

import jax
import numpy as np
from jaxtyping import Float32
from PIL import Image

Photo = Float32[np.ndarray, "H W 3"]
Resized = Float32[np.ndarray, "h w 3"]
Size = tuple[int, int]  # height, width


def short_edge(size: Size, least: int) -> Size:
    """`size`, enlarged to a shorter side of `least` pixels where it is smaller; the longer side is rounded down."""
    short = min(size)
    return size if short >= least else tuple(least if n == short else int(n * (least / short)) for n in size)


def enlarge(image: Photo, size: Size) -> Resized:
    """The user's own scaling of an image in [0, 1]: Pillow's bicubic filter on 8 bits."""
    if size == image.shape[:2]:
        return image
    pixels = Image.fromarray(np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8))
    return np.asarray(pixels.resize(size[::-1], Image.Resampling.BICUBIC)).astype(np.float32) / np.float32(255)


def resize(image: Photo, size: Size) -> Resized:
    """Bicubic (a = -1/2), antialiased where it shrinks; overshoots are kept. PyTorch's `interpolate(…, antialias=True)`."""
    if size == image.shape[:2]:
        return image
    return np.asarray(jax.image.resize(image, (*size, 3), "bicubic", antialias=True))
