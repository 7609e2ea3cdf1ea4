"""Colour profiles (ICC.1:2010): from an image's own colours to sRGB.

Profiles of three curves and a matrix, and of one curve for grey, are computed here in float32, so that 16 bits stay 16 bits.
What holds tables instead (printing inks, some scanners) goes through LittleCMS, which Pillow has in 8 bits only.
"""

import io
import struct
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, UInt8, UInt16
from PIL import Image, ImageCms

# Columns: the CIE XYZ of sRGB's and Adobe RGB's primaries, adapted to D50 (the profiles' tags rXYZ, gXYZ, bXYZ).
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
ADOBE = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
NO_CHANGE = 3e-3  # of matrix and curves: a profile this near to sRGB is sRGB; less than an 8-bit step
PARAMETERS = (1, 3, 4, 5, 7)  # of parametric curves, by their type
ROWS = 256

Stored = UInt8[np.ndarray, "H W 3"] | UInt16[np.ndarray, "H W 3"]
Photo = Float32[np.ndarray, "H W 3"]
Curve = Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Profile:
    """A colour space by its curves to linear light, sampled as `n` even steps over [0, 1], and its matrix to linear sRGB."""

    name: str
    curves: Float[np.ndarray, "3 n"]
    matrix: Float[np.ndarray, "3 3"]

    @property
    def is_srgb(self) -> bool:
        difference = srgb_from_linear(self.curves) - np.linspace(0, 1, self.curves.shape[1])
        return bool(max(np.abs(self.matrix - np.eye(3)).max(), np.abs(difference).max()) < NO_CHANGE)


def to_srgb(pixels: Stored, icc: bytes) -> tuple[Stored | Photo, str | None]:
    """Pixels in sRGB, and a note of what was done; the pixels as they are where their profile is sRGB.

    Args:
        pixels: R, G, B as stored, 8 or 16 bits. A grey image's three are equal.
        icc: the image's profile. One that cannot be read is ignored, and the note says so.

    Returns:
        Float32 in [0, 1], colours outside sRGB clipped, if anything changed.
    """
    try:
        if profile := read_profile(icc, np.iinfo(pixels.dtype).max + 1):
            return from_profile(pixels, profile)
        eight = pixels if pixels.dtype == np.uint8 else np.rint(pixels / 257).astype(np.uint8)
        converted = by_littlecms(Image.fromarray(eight), icc)
    except (ImageCms.PyCMSError, OSError, struct.error, ValueError, LookupError):
        return pixels, "unreadable colour profile ignored"
    depth = "" if pixels.dtype == np.uint8 else ", in 8 bits"
    return np.asarray(converted), f"{_name(icc)} converted to sRGB{depth}"


def from_profile(pixels: Stored, profile: Profile) -> tuple[Stored | Photo, str | None]:
    """As `to_srgb`, for a profile of as many steps as the pixels have levels."""
    if profile.is_srgb:
        return pixels, None
    curves, matrix = profile.curves.astype(np.float32), profile.matrix.T.astype(np.float32)
    out = np.empty(pixels.shape, np.float32)
    for top in range(0, len(pixels), ROWS):
        rows = pixels[top : top + ROWS]
        linear = np.stack([curve[rows[..., i]] for i, curve in enumerate(curves)], -1)
        out[top : top + ROWS] = srgb_from_linear(linear @ matrix)
    return out, f"{profile.name} converted to sRGB"


def by_littlecms(image: Image.Image, icc: bytes | None) -> Image.Image:
    """CMYK, Lab or RGB to sRGB by a profile's tables, 8 bits. Lab needs no profile.

    Raises:
        PIL.ImageCms.PyCMSError: the profile does not fit the image, or cannot be read.
    """
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc)) if icc else ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")


def read_profile(icc: bytes, steps: int) -> Profile | None:
    """A profile of curves and a matrix, sampled at `steps` points; None for one that holds tables.

    Raises:
        struct.error, ValueError, LookupError: it is damaged.
    """
    space, connection, tags = icc[16:20], icc[20:24], _tags(icc)
    if connection != b"XYZ " or b"A2B0" in tags:
        return None
    x = np.linspace(0, 1, steps)
    if space == b"GRAY":
        return Profile(_name(icc), np.stack([_curve(tags[b"kTRC"], x)] * 3), np.eye(3))
    primaries = np.stack([np.frombuffer(tags[tag], ">i4", 3, 8) / 65536 for tag in (b"rXYZ", b"gXYZ", b"bXYZ")], -1)
    curves = np.stack([_curve(tags[tag], x) for tag in (b"rTRC", b"gTRC", b"bTRC")])
    return Profile(_name(icc), curves, np.linalg.solve(SRGB, primaries))


def adobe_rgb(steps: int) -> Profile:
    """Adobe RGB (1998), which cameras name in EXIF and add no profile for."""
    curve = np.linspace(0, 1, steps) ** (563 / 256)
    return Profile("Adobe RGB", np.stack([curve] * 3), np.linalg.solve(SRGB, ADOBE))


def srgb_from_linear(linear: np.ndarray) -> np.ndarray:
    """Linear light, clipped to [0, 1], with sRGB's curve (IEC 61966-2-1)."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def srgb_icc() -> bytes:
    """LittleCMS's sRGB profile, dated the same whenever it is made."""
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return icc[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + icc[36:]


def _tags(icc: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", icc, 128)
    rows = (struct.unpack_from(">4sII", icc, 132 + 12 * i) for i in range(count))
    return {name: icc[start : start + size] for name, start, size in rows}


def _curve(tag: bytes, x: Curve) -> Curve:
    """A tone curve (curveType or parametricCurveType, 10.5 and 10.15 of the standard) at the points x."""
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        values = np.frombuffer(tag, ">u2", count, 12)
        return x if not count else x ** (values[0] / 256) if count == 1 else np.interp(x, np.linspace(0, 1, count), values / 65535)
    (kind,) = struct.unpack_from(">H", tag, 8)
    g, a, b, c, d, e, f = _parameters(list(np.frombuffer(tag, ">i4", PARAMETERS[kind], 12) / 65536))
    return np.where(x >= d, np.maximum(a * x + b, 0) ** g + e, c * x + f)


def _parameters(given: list[float]) -> list[float]:
    """Every kind of parametric curve as the last: (a x + b)^g + e from d on, c x + f below."""
    match given:
        case [g]:
            return [g, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
        case [g, a, b]:
            return [g, a, b, 0.0, -b / a, 0.0, 0.0]
        case [g, a, b, c]:
            return [g, a, b, 0.0, -b / a, c, c]
        case [g, a, b, c, d]:
            return [g, a, b, c, d, 0.0, 0.0]
    return given


def _name(icc: bytes) -> str:
    """A profile's description, in one line."""
    name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(icc)))
    return " ".join(name.split()) or "a colour profile"
