"""Image files as arrays alone, for training data and for making low-quality images."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8

from diffbir_jax.imaging.decoding import decode
from diffbir_jax.imaging.paths import find_images as find_images
from diffbir_jax.imaging.paths import images_in as images_in
from diffbir_jax.imaging.paths import output_names as output_names
from diffbir_jax.imaging.paths import prepare_folder as prepare_folder
from diffbir_jax.imaging.reading import MAX_MEGAPIXELS, in_srgb, to_float, upright
from diffbir_jax.imaging.reading import MIN_SIDE as MIN_SIDE
from diffbir_jax.imaging.writing import on_white, to_levels, write_picture


def read_image(path: str | Path, min_side: int = MIN_SIDE) -> Float32[np.ndarray, "H W 3"]:
    """Reads a photo as float32 RGB in [0, 1], as `read_picture`, of 8 bits; transparency is laid on white.

    Raises:
        InputError: as `read_picture`.
    """
    return to_float(read_image_uint8(path, min_side))


def read_image_uint8(path: str | Path, min_side: int = MIN_SIDE) -> UInt8[np.ndarray, "H W 3"]:
    """As `read_image`, in 8 bits."""
    decoded = decode(Path(path), min_side, MAX_MEGAPIXELS)
    pixels, _ = in_srgb(decoded)
    if decoded.alpha is not None:
        pixels = on_white(to_float(pixels), to_float(decoded.alpha))
    if pixels.dtype != np.uint8:
        pixels = to_levels(to_float(pixels), 8)
    return np.ascontiguousarray(upright(pixels, decoded.orientation))


def write_png(path: str | Path, image: Float[np.ndarray, "H W 3"]) -> None:
    """Writes RGB in [0, 1] as an 8-bit PNG. The file appears whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    write_picture(path, image)
