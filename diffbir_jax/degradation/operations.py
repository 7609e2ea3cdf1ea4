"""The single steps of a degradation: frozen data that says everything, and a function each that carries it out.

Images are float32 RGB in [0, 1], HWC. One that draws noise holds its own seed, so a degradation can be stored and replayed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce, singledispatch

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from diffbir_jax.degradation.kernels import gaussian_kernel, gaussian_taps

Photo = Float32[np.ndarray, "H W 3"]
Resized = Float32[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Blur:
    """Gaussian blur, borders reflected; isotropic (and then separable) where both sigmas are equal."""

    size: int
    sigma_x: float
    sigma_y: float
    rotation: float = 0.0


@dataclass(frozen=True)
class Resize:
    """Bilinear resampling to `height` and `width`, without antialiasing."""

    height: int
    width: int


@dataclass(frozen=True)
class GaussianNoise:
    """Independent normal noise of standard deviation `sigma` (in [0, 1] units) per pixel and channel, clipped to [0, 1]."""

    sigma: float
    seed: int


@dataclass(frozen=True)
class Jpeg:
    """JPEG compression at `quality`, 0 to 100."""

    quality: int


@dataclass(frozen=True)
class Quantise:
    """Rounding to the 256 levels of an 8-bit image."""


Operation = Blur | Resize | GaussianNoise | Jpeg | Quantise


def apply(operations: Iterable[Operation], image: Photo) -> Resized:
    """Carries out the operations in their order; the same operations give the same bytes."""
    return reduce(lambda photo, operation: apply_one(operation, photo), operations, image)


@singledispatch
def apply_one(operation, image: Photo) -> Resized:
    raise TypeError(f"not an operation: {operation!r}")


@apply_one.register
def _(operation: Blur, image: Photo) -> Photo:
    border = cv2.BORDER_REFLECT_101
    if operation.sigma_x == operation.sigma_y:
        taps = gaussian_taps(operation.size, operation.sigma_x)
        return cv2.sepFilter2D(image, -1, taps, taps, borderType=border)
    kernel = gaussian_kernel(operation.size, operation.sigma_x, operation.sigma_y, operation.rotation)
    return cv2.filter2D(image, -1, kernel, borderType=border)


@apply_one.register
def _(operation: Resize, image: Photo) -> Resized:
    return cv2.resize(image, (operation.width, operation.height), interpolation=cv2.INTER_LINEAR)


@apply_one.register
def _(operation: GaussianNoise, image: Photo) -> Photo:
    noise = np.random.default_rng(operation.seed).standard_normal(image.shape, np.float32)
    return np.clip(image + np.float32(operation.sigma) * noise, 0, 1)


@apply_one.register
def _(operation: Jpeg, image: Photo) -> Photo:
    bgr = cv2.cvtColor(to_uint8(image), cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, operation.quality])
    return to_float(cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))


@apply_one.register
def _(operation: Quantise, image: Photo) -> Photo:
    return to_float(to_uint8(image))


def to_uint8(image: Photo) -> UInt8[np.ndarray, "H W 3"]:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def to_float(image: UInt8[np.ndarray, "H W 3"]) -> Photo:
    return image.astype(np.float32) / np.float32(255)
