"""From a file to its pixels as they are stored. Pillow decodes; colours of 16 bits, which Pillow cuts to 8, OpenCV."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import ExifTags, Image, ImageCms

from diffbir_jax.errors import InputError
from diffbir_jax.imaging.metadata import is_adobe_rgb, portable_exif
from diffbir_jax.imaging.paths import EXTENSIONS, no_images
from diffbir_jax.imaging.profiles import Stored, by_littlecms

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "AVIF", "JPEG2000", "PPM")
SIGNATURES = {
    b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"RIFF": "WebP", b"BM": "BMP", b"GIF8": "GIF"
}  # fmt: skip
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
ORIENTATION = ExifTags.Base.Orientation
_HEADER = threading.Lock()

Level = UInt8[np.ndarray, "H W"] | UInt16[np.ndarray, "H W"]


@dataclass(frozen=True)
class Decoded:
    """An image's first frame as its file stores it.

    Attributes:
        pixels: R, G, B, 8 or 16 bits; grey three times, inks as sRGB. Not yet upright.
        alpha: opacity in the same bits, None where all is opaque.
        orientation: EXIF's, 1 to 8: what is still to be turned.
        icc: the profile of `pixels`, if not sRGB by then.
        adobe_rgb: whether EXIF says Adobe RGB and there is no profile.
        exif: `portable_exif`.
        notes: what a user should know.
    """

    pixels: Stored
    alpha: Level | None
    orientation: int
    icc: bytes | None
    adobe_rgb: bool
    exif: bytes | None
    notes: tuple[str, ...]


def decode(path: Path, min_side: int, max_megapixels: float) -> Decoded:
    """Reads a file's first frame; its size is judged by the header, before anything is decoded.

    Raises:
        InputError: missing, a folder, empty, not an image, damaged, truncated, too large, or a side shorter than `min_side`.
    """
    head = _head(path)
    with _named_damage(path, head):
        with _pillow_quiet():
            image = Image.open(path, formats=_formats(path, head))
        with image:
            _check_size(path, image.size, min_side, max_megapixels)
            deep = image.format in ("PNG", "TIFF") and ";16" in str(image.tile)  # decoding empties the list
            if image.format == "PNG":
                image.load()  # EXIF may come after the pixels
            with _pillow_quiet():
                exif, adobe_rgb, turn, notes = _describe(image)
            pixels, alpha, icc, more = _pixels(path, image, deep)
    turn = 1 if image.format == "TIFF" else turn  # both decoders turn a TIFF themselves
    alpha = None if alpha is None or alpha.min() == np.iinfo(alpha.dtype).max else alpha
    return Decoded(pixels, alpha, turn, icc, adobe_rgb and not icc, exif, notes + more)


def _head(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise InputError(no_images(path))
        if not path.is_file():
            raise InputError(f"{path} is not a file" if path.exists() else f"{path} does not exist")
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise InputError(f"{path} is empty; give an image")
    return head


def _formats(path: Path, head: bytes) -> tuple[str, ...]:
    """The formats to try; HEIC is asked for only where a file is one."""
    if head[4:8] != b"ftyp" or not any(brand in head[8:] for brand in HEIC_BRANDS):
        return FORMATS
    try:
        import pillow_heif
    except ImportError:
        raise InputError(f"{path} is a HEIC photo, which needs an extra: `pip install diffbir_jax[heif]`") from None
    pillow_heif.register_heif_opener()
    return ("HEIF",)


@contextmanager
def _named_damage(path: Path, head: bytes) -> Iterator[None]:
    """Any error of a decoder means a bad file: decoders raise a dozen kinds."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        raise InputError(f"{path} {_unidentified(head)}") from error
    except Exception as error:
        raise InputError(f"{path} is damaged or truncated: {' '.join(str(error).split())}") from error


def _unidentified(head: bytes) -> str:
    kind = next((name for signature, name in SIGNATURES.items() if head.startswith(signature)), None)
    if kind:
        return f"begins as a {kind} file but is damaged, truncated, without pixels or of a kind that is not read"
    return f"is not an image that can be read; give one of {', '.join(EXTENSIONS)}"


@contextmanager
def _pillow_quiet() -> Iterator[None]:
    """Pillow without warnings and its own limit of pixels. Both are settings of the process: one thread at a time, headers only."""
    with _HEADER, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_size(path: Path, size: tuple[int, int], min_side: int, max_megapixels: float) -> None:
    megapixels = size[0] * size[1] / 1e6
    if megapixels > max_megapixels:
        raise InputError(f"{path} is {size[0]}x{size[1]}, {megapixels:.0f} megapixels; at most {max_megapixels:g} are read")
    if min(size) < min_side:
        raise InputError(f"{path} is {size[0]}x{size[1]}; the shorter side must have at least {min_side} pixels")


def _describe(image: Image.Image) -> tuple[bytes | None, bool, int, tuple[str, ...]]:
    """EXIF to keep, whether it says Adobe RGB, its orientation, and notes. What cannot be read is left out, and said."""
    frames = getattr(image, "n_frames", 1)
    notes = [f"first of {frames} frames"] * (frames > 1 and image.format != "MPO")  # an MPO's others are previews
    kept, adobe_rgb, turn = None, False, 1
    try:
        exif = image.getexif()
        turn = exif.get(ORIENTATION) if exif.get(ORIENTATION) in range(1, 9) else 1
        notes += ["turned upright"] * (turn > 1)
        kept, adobe_rgb = portable_exif(exif), is_adobe_rgb(exif)
    except Exception:  # as many kinds as there are broken files
        notes.append("unreadable EXIF left out")
    return kept, adobe_rgb, turn, tuple(notes)


def _pixels(path: Path, image: Image.Image, deep: bool) -> tuple[Stored, Level | None, bytes | None, tuple[str, ...]]:
    """Colours, opacity, the profile that is still to be applied, and notes."""
    icc = image.info.get("icc_profile")
    if image.mode in ("CMYK", "LAB"):
        return np.asarray(_from_inks(image, icc)), None, None, (image.mode,)
    if image.mode.startswith("I") or image.mode == "F":
        return *_deep_grey(image), icc, ("16 bit",)
    if deep and image.mode in ("LA", "RGB", "RGBA"):
        return *_deep_colour(path, image), icc, ("16 bit",)
    notes = ("palette",) if image.mode == "P" else ()
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB")), None, icc, notes
    rgba = np.asarray(image.convert("RGBA"))
    return rgba[..., :3], rgba[..., 3], icc, notes


def _from_inks(image: Image.Image, icc: bytes | None) -> Image.Image:
    """By the profile; CMYK without one, or with one that is broken, by Pillow's own formula."""
    image.load()
    try:
        return by_littlecms(image, icc) if icc or image.mode == "LAB" else image.convert("RGB")
    except (ImageCms.PyCMSError, OSError):
        return image.convert("RGB")


def _deep_grey(image: Image.Image) -> tuple[UInt16[np.ndarray, "H W 3"], UInt16[np.ndarray, "H W"] | None]:
    """Grey of 16 bits (65535 is white), or floats (1 is white)."""
    grey, key = np.asarray(image), image.info.get("transparency")
    if grey.dtype != np.uint16:
        scale = 65535 if image.mode == "F" else 1
        grey = np.rint(np.clip(np.nan_to_num(grey.astype(np.float64)) * scale, 0, 65535)).astype(np.uint16)
    alpha = np.where(grey == key, 0, 65535).astype(np.uint16) if isinstance(key, int) else None
    return np.repeat(grey[..., None], 3, -1), alpha


def _deep_colour(path: Path, image: Image.Image) -> tuple[UInt16[np.ndarray, "H W 3"], UInt16[np.ndarray, "H W"] | None]:
    """By OpenCV, after Pillow has seen that the file is whole. It would print what it thinks of a TIFF's tags."""
    image.load()
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    bgr = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    cv2.utils.logging.setLogLevel(level)
    if bgr is None:
        raise OSError("its 16-bit colours cannot be decoded")
    return bgr[..., 2::-1], bgr[..., 3] if bgr.shape[2] == 4 else None
