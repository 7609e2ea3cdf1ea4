"""Writing results: tagged as sRGB, with a text that says how they were made. A file appears whole or not at all."""

import io
import json
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import cv2
import numpy as np
from jaxtyping import Float, UInt8, UInt16
from PIL import Image

from diffbir_jax.atomic import write_whole
from diffbir_jax.errors import InputError
from diffbir_jax.imaging.profiles import srgb_icc

LONGEST = {".png": 2**31 - 1, ".jpg": 65500, ".jpeg": 65500, ".webp": 16383}  # pixels a side, by the format
QUALITY = 95
IHDR_END = 33  # of a PNG: signature 8, chunk 25
ROWS = 256  # converted at a time
PERCEPTUAL = b"\0"
EXIF = b"Exif\0\0"  # as JPEG and WebP have it in front; PNG has not
XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>\
<rdf:li xml:lang="x-default">{}</rdf:li></rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta>"""

Colours = UInt8[np.ndarray, "H W C"] | UInt16[np.ndarray, "H W C"]


def write_picture(
    path: str | Path,
    pixels: Float[np.ndarray, "H W 3"],
    alpha: Float[np.ndarray, "H W"] | None = None,
    bits: int = 8,
    exif: bytes | None = None,
    text: Mapping[str, str] | None = None,
) -> None:
    """Writes sRGB as PNG, JPEG (quality 95, 4:4:4) or WebP (quality 95), by the path's ending.

    Args:
        path: ends in .png, .jpg, .jpeg or .webp.
        pixels: in [0, 1]; what is outside is clipped.
        alpha: opacity in [0, 1]. JPEG has none: there the picture is laid on white.
        bits: 8, or 16 for PNG.
        exif: TIFF-structured bytes, as `Picture.exif`.
        text: keyword (Latin-1, at most 79 letters) -> what it says. In a PNG one iTXt chunk each; in others lines of
            "keyword: what it says" in the XMP description.

    Raises:
        InputError: the format is another or cannot hold this, or the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    _check(path, suffix, bits, pixels.shape[:2])
    if alpha is not None and suffix in (".jpg", ".jpeg"):
        pixels, alpha = on_white(pixels, alpha), None
    colours = to_levels(pixels, bits)
    if alpha is not None:
        colours = np.dstack([colours, to_levels(alpha, bits)])
    pieces = _png(colours, exif, text or {}) if suffix == ".png" else _by_pillow(path, suffix, colours, exif, text or {})
    write_whole(path, lambda file: _write_pieces(file, pieces))


def write_sidecar(path: str | Path, record: Mapping[str, Any]) -> None:
    """Writes a record as JSON, one entry a line.

    Raises:
        InputError: the file cannot be written.
    """
    text = json.dumps(dict(record), indent=1, ensure_ascii=False) + "\n"
    write_whole(Path(path), lambda file: file.write_text(text, encoding="utf-8", errors="backslashreplace"))


def to_levels(image: Float[np.ndarray, "H W *_"], bits: int) -> UInt8[np.ndarray, "H W *_"] | UInt16[np.ndarray, "H W *_"]:
    """[0, 1], clipped, to the nearest of 2^bits levels."""
    levels = np.empty(image.shape, np.uint8 if bits == 8 else np.uint16)
    for top in range(0, len(image), ROWS):
        levels[top : top + ROWS] = np.rint(np.clip(image[top : top + ROWS], 0, 1) * (2**bits - 1))
    return levels


def on_white(pixels: Float[np.ndarray, "H W 3"], alpha: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W 3"]:
    """What is seen of a picture on white paper."""
    return 1 - (1 - pixels) * alpha[..., None]


def _check(path: Path, suffix: str, bits: int, size: tuple[int, int]) -> None:
    if suffix not in LONGEST:
        raise InputError(f"{path} ends in {suffix or 'nothing'}; results are written to one of {', '.join(LONGEST)}")
    if bits not in (8, 16):
        raise InputError(f"bits is {bits}; give 8 or 16")
    if bits == 16 and suffix != ".png":
        raise InputError(f"{path} cannot hold 16 bits; write .png, or 8 bits")
    if max(size) > LONGEST[suffix]:
        raise InputError(f"{path} would be {size[1]}x{size[0]}; {suffix} takes at most {LONGEST[suffix]} a side, so write .png")


def _png(colours: Colours, exif: bytes | None, text: Mapping[str, str]) -> list[bytes | memoryview]:
    """OpenCV's PNG with chunks after the header (PNG, third edition, 11.3)."""
    swapped = cv2.cvtColor(colours, cv2.COLOR_RGB2BGR if colours.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    encoded = memoryview(cv2.imencode(".png", swapped)[1])
    chunks = [_chunk(b"sRGB", PERCEPTUAL)]
    chunks += [_chunk(b"iTXt", key.encode("latin-1") + b"\0\0\0\0\0" + said.encode()) for key, said in text.items()]
    chunks += [_chunk(b"eXIf", exif.removeprefix(EXIF))] if exif else []
    return [encoded[:IHDR_END], *chunks, encoded[IHDR_END:]]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _by_pillow(path: Path, suffix: str, colours: Colours, exif: bytes | None, text: Mapping[str, str]) -> list[memoryview]:
    file, options = io.BytesIO(), {"quality": QUALITY, "icc_profile": srgb_icc()}
    if exif:
        options["exif"] = EXIF + exif.removeprefix(EXIF)
    if text:
        options["xmp"] = XMP.format(escape("\n".join(f"{key}: {said}" for key, said in text.items()))).encode()
    options |= {"format": "WEBP", "exact": True} if suffix == ".webp" else {"format": "JPEG", "subsampling": "4:4:4"}
    try:
        Image.fromarray(colours).save(file, **options)
    except (OSError, ValueError) as error:  # EXIF above 64 kB in a JPEG, among others
        raise InputError(f"cannot write {path}: {' '.join(str(error).split())}") from error
    return [file.getbuffer()]


def _write_pieces(file: Path, pieces: Iterable[bytes | memoryview]) -> None:
    with file.open("wb") as opened:
        opened.writelines(pieces)
