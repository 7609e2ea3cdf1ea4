"""Image files: find, read, write. Every failure is an InputError of one line that names the file."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image, ImageOps

from diffbir_jax.atomic import write_whole
from diffbir_jax.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
MIN_SIDE = 16


def find_images(inputs: Iterable[str | Path]) -> list[Path]:
    """The files that `inputs` (files or folders) stand for, in the order given, a folder's sorted.

    Files are taken as they are, missing ones too: `read_image` tells about each. So is a folder without images, unless nothing
    else was given.

    Raises:
        InputError: folders were given, and no image is in any.
    """
    inputs = [Path(i) for i in inputs]
    found = [path for given in inputs for path in (images_in(given) if given.is_dir() else [given]) or [given]]
    if inputs and all(path.is_dir() for path in found):
        raise InputError(_no_images(inputs[0]))
    return found


def images_in(folder: Path, recursive: bool = False) -> list[Path]:
    """The image files of a folder by their extension, in any case of letters, sorted; hidden ones left out."""
    paths = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(p for p in paths if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".") and p.is_file())


def output_names(paths: Sequence[Path]) -> list[str]:
    """The name of the PNG to write for each input: its stem, or its full name where two stems are equal.

    Raises:
        InputError: two inputs have the same full name.
    """
    stems = Counter(path.stem for path in paths)
    names = [f"{path.stem if stems[path.stem] == 1 else path.name}.png" for path in paths]
    for name, times in Counter(names).items():
        if times > 1:
            same = [str(p) for p, n in zip(paths, names, strict=True) if n == name]
            raise InputError(f"{' and '.join(same)} would be written to the same file {name}; restore them to different folders")
    return names


def prepare_folder(folder: str | Path) -> Path:
    """Makes the folder and its parents where missing, and sees that files can be written there.

    Raises:
        InputError: it cannot be made, is a file, or is not writable.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to the folder {folder}: permission denied")
    return folder


def read_image(path: str | Path, min_side: int = MIN_SIDE) -> Float32[np.ndarray, "H W 3"]:
    """Reads a photo as float32 RGB in [0, 1], upright by its EXIF orientation.

    Palettes, grey, CMYK and 16 bit are converted to RGB; transparency is laid on white; of several frames the first is read.

    Raises:
        InputError: missing, a folder, not an image, truncated, too large, or a side shorter than `min_side`.
    """
    return read_image_uint8(path, min_side).astype(np.float32) / np.float32(255)


def read_image_uint8(path: str | Path, min_side: int = MIN_SIDE) -> UInt8[np.ndarray, "H W 3"]:
    """As `read_image`, in 8 bits."""
    path = Path(path)
    if path.is_dir():
        raise InputError(_no_images(path))
    if not path.exists():
        raise InputError(f"{path} does not exist")
    array = _decode(path)
    height, width = array.shape[:2]
    if min(height, width) < min_side:
        raise InputError(f"{path} is {width}x{height}; the shorter side must have at least {min_side} pixels")
    return array


def write_png(path: str | Path, image: Float[np.ndarray, "H W 3"]) -> None:
    """Writes RGB in [0, 1] as an 8-bit PNG. The file appears whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path)
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    _, encoded = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    write_whole(path, lambda file: file.write_bytes(encoded.tobytes()))


def _no_images(folder: Path) -> str:
    return f"{folder} is a folder without images; it should hold files that end in {', '.join(EXTENSIONS)}"


def _decode(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """Any error of a decoder means a bad file: decoders raise a dozen kinds."""
    try:
        with Image.open(path) as opened:
            return np.asarray(_to_rgb(ImageOps.exif_transpose(opened)))
    except Image.UnidentifiedImageError as error:
        return _decode_opencv(path, error)
    except Image.DecompressionBombError as error:
        most = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        raise InputError(f"{path} has too many pixels; at most {most} megapixels are read") from error
    except PermissionError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:
        raise InputError(f"{path} is damaged or truncated: {' '.join(str(error).split())}") from error


def _decode_opencv(path: Path, cause: Exception) -> UInt8[np.ndarray, "H W 3"]:
    """What Pillow does not know, as 16-bit colour TIFF."""
    data = np.fromfile(path, np.uint8)
    bgr = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if bgr is None:
        raise InputError(f"{path} is not an image that can be read; give one of {', '.join(EXTENSIONS)}") from cause
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I;16", "I", "F")):
        return _deep_grey(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """Grey of 16 bits (65535 is white), or floats (1 is white)."""
    white = 1.0 if image.mode == "F" else 65535.0
    grey = np.clip(np.asarray(image, np.float64) / white, 0, 1)
    return Image.fromarray(np.rint(grey * 255).astype(np.uint8)).convert("RGB")
