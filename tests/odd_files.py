"""Twelve files that a folder of photographs may hold, each odd in its own way."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image

PHOTO = Path(__file__).parent / "data" / "photos" / "coffee_01.webp"
SIZE = (96, 72)


def make_odd_files(folder: Path) -> dict[str, str]:
    """Writes the files; what each is, by its name. The folder must exist."""
    photo = Image.open(PHOTO).convert("RGB").resize(SIZE)
    for name, (_, make) in ODD.items():
        make(photo, folder / name)
    return {name: what for name, (what, _) in ODD.items()}


def forged_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises any size."""
    chunks = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(png_chunk, *zip(*chunks, strict=True)))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _deep(photo: Image.Image, path: Path) -> None:
    smooth = cv2.GaussianBlur(np.asarray(photo).astype(np.float32), (0, 0), 2)
    cv2.imwrite(str(path), np.rint(smooth[..., ::-1] * 257).astype(np.uint16))


def _rotated(photo: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    photo.rotate(90, expand=True).save(path, exif=exif)


def _alpha(photo: Image.Image, path: Path) -> None:
    photo.putalpha(Image.radial_gradient("L").resize(photo.size).point(lambda x: 255 - x))
    photo.save(path)


def _animated(photo: Image.Image, path: Path) -> None:
    frames = [photo.rotate(30 * i) for i in range(12)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)


def _truncated(photo: Image.Image, path: Path) -> None:
    photo.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


ODD: dict[str, tuple[str, Callable[[Image.Image, Path], object]]] = {
    "alpha.png": ("with transparency", lambda photo, path: _alpha(photo.copy(), path)),
    "animated.gif": ("12 frames", _animated),
    "bomb.png": ("a header of 50000x50000 pixels", lambda photo, path: path.write_bytes(forged_png(50000, 50000))),
    "cmyk.jpg": ("CMYK", lambda photo, path: photo.convert("CMYK").save(path)),
    "deep.png": ("16 bits", _deep),
    "one_pixel.png": ("1x1", lambda photo, path: photo.resize((1, 1)).save(path)),
    "palette.png": ("64 colours", lambda photo, path: photo.quantize(64).save(path)),
    "photo.avif": ("AVIF", lambda photo, path: photo.save(path)),
    "rotated.jpg": ("on its side, EXIF says so", _rotated),
    "strip.png": ("20x3000", lambda photo, path: photo.resize((20, 3000)).save(path)),
    "text.jpg": ("a text", lambda photo, path: path.write_text("no photograph\n")),
    "truncated.jpg": ("cut off after two thirds", _truncated),
}
