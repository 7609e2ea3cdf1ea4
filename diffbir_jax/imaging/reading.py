"""Reading photographs: any file, upright, in sRGB, at its own depth."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8, UInt16

from diffbir_jax.imaging.decoding import Decoded, decode
from diffbir_jax.imaging.profiles import Photo, Stored, adobe_rgb, from_profile, to_srgb
from diffbir_jax.imaging.writing import on_white, to_levels

MIN_SIDE = 16
MAX_MEGAPIXELS = 200.0

Plane = UInt8[np.ndarray, "H W *_"] | UInt16[np.ndarray, "H W *_"] | Float32[np.ndarray, "H W *_"]

Turned = UInt8[np.ndarray, "h w *_"] | UInt16[np.ndarray, "h w *_"] | Float32[np.ndarray, "h w *_"]


@dataclass(frozen=True)
class Picture:
    """A photograph.

    Attributes:
        pixels: upright, sRGB, in [0, 1]. A 16-bit file's values are there to the last bit. Colours under transparency are kept as
            they are stored, under full transparency too.
        alpha: opacity in [0, 1], None where all is opaque.
        exif: `metadata.portable_exif`, to be written again; None if the file has none.
        notes: what a user should know, for example "first of 12 frames", "CMYK", "Display P3 converted to sRGB".
    """

    pixels: Float32[np.ndarray, "H W 3"]
    alpha: Float32[np.ndarray, "H W"] | None
    exif: bytes | None
    notes: tuple[str, ...]


def read_picture(path: str | Path, min_side: int = MIN_SIDE, max_megapixels: float = MAX_MEGAPIXELS) -> Picture:
    """Reads JPEG, PNG, TIFF, WebP, BMP, GIF, AVIF, JPEG 2000, PNM, and HEIC with the extra `heif`; of several frames the first.

    Raises:
        InputError: one line that names the file: missing, a folder, empty, not an image, damaged, truncated, more than
            `max_megapixels` (seen in its header, before it is decoded), or a side shorter than `min_side` pixels.
    """
    decoded = decode(Path(path), min_side, max_megapixels)
    pixels, note = in_srgb(decoded)
    alpha = None if decoded.alpha is None else to_float(upright(decoded.alpha, decoded.orientation))
    return Picture(to_float(upright(pixels, decoded.orientation)), alpha, decoded.exif, decoded.notes + (note,) * bool(note))


def read_image(path: str | Path, min_side: int = MIN_SIDE) -> Float32[np.ndarray, "H W 3"]:
    """The pixels alone as float32 RGB in [0, 1], of 8 bits; transparency is laid on white.

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


def in_srgb(decoded: Decoded) -> tuple[Stored | Photo, str | None]:
    """The pixels in sRGB, untouched where they are already, and a note of what was done."""
    if decoded.adobe_rgb:
        return from_profile(decoded.pixels, adobe_rgb(np.iinfo(decoded.pixels.dtype).max + 1))
    return to_srgb(decoded.pixels, decoded.icc) if decoded.icc else (decoded.pixels, None)


def upright(image: Plane, orientation: int) -> Turned:
    """Undoes an EXIF orientation, 1 to 8 (EXIF 2.32, 4.6.4): a view. Other numbers mean nothing, and change nothing."""
    turned = image.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else image
    turned = turned[::-1] if orientation in (3, 4, 7, 8) else turned
    return turned[:, ::-1] if orientation in (2, 3, 6, 7) else turned


def to_float(image: Plane) -> Float32[np.ndarray, "H W *_"]:
    """8 or 16 bits as float32 in [0, 1], contiguous; floats as they are."""
    if image.dtype == np.float32:
        return np.ascontiguousarray(image)
    return np.divide(image, np.float32(np.iinfo(image.dtype).max), dtype=np.float32, order="C")
