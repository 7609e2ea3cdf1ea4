"""The single steps of a degradation: frozen data that says everything, and a function each that carries it out.

Images are float32 RGB in [0, 1], HWC. One that draws noise holds its own seed, so a degradation can be stored and replayed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce, singledispatch

import cv2
import numpy as np

from diffbir_jax.degradation import kernels, noise
from diffbir_jax.degradation.filtering import filter_image
from diffbir_jax.degradation.pixels import Photo, to_float, to_uint8

INTERPOLATIONS = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


@dataclass(frozen=True)
class Blur:
    """Blur by a kernel of `size` (odd), borders reflected; `kind`: gaussian, or generalised or plateau of shape `beta`."""

    size: int
    sigma_x: float
    sigma_y: float
    rotation: float = 0.0
    kind: str = "gaussian"
    beta: float = 1.0


@dataclass(frozen=True)
class Sinc:
    """Low-pass filter that rings, `cutoff` in radians per pixel."""

    size: int
    cutoff: float


@dataclass(frozen=True)
class Resize:
    """Resampling to `height` and `width` by area, bilinear or bicubic `interpolation`, the latter two without antialiasing."""

    height: int
    width: int
    interpolation: str = "bilinear"


@dataclass(frozen=True)
class GaussianNoise:
    """Independent normal noise of standard deviation `sigma` (in [0, 1] units) per pixel, and channel unless `grey`; clipped."""

    sigma: float
    seed: int
    grey: bool = False


@dataclass(frozen=True)
class CorrelatedNoise:
    """Normal noise whose channels go together: independent unit noise times the 3x3 `mixing` (three rows); clipped."""

    mixing: tuple[tuple[float, ...], ...]
    seed: int


@dataclass(frozen=True)
class PoissonNoise:
    """Photon noise, `scale` times as strong as counting gives; of the grey image where `grey`; clipped."""

    scale: float
    seed: int
    grey: bool = False


@dataclass(frozen=True)
class CameraNoise:
    """The noise of a sensor; its variance is `shot` times the signal plus `read`, in linear light up to 1.

    The image goes back to raw (white balance by `red_gain` and `blue_gain` undone, one colour a pixel), gets its noise and is
    developed again.
    """

    shot: float
    read: float
    red_gain: float
    blue_gain: float
    seed: int


@dataclass(frozen=True)
class Jpeg:
    """JPEG compression at `quality`, 1 to 100."""

    quality: int


@dataclass(frozen=True)
class Quantise:
    """Rounding to the 256 levels of an 8-bit image."""


Operation = Blur | Sinc | Resize | GaussianNoise | CorrelatedNoise | PoissonNoise | CameraNoise | Jpeg | Quantise


def apply(operations: Iterable[Operation], image: Photo) -> Photo:
    """Carries out the operations in their order; the same operations give the same bytes."""
    return reduce(lambda photo, operation: apply_one(operation, photo), operations, image)


@singledispatch
def apply_one(operation, image: Photo) -> Photo:
    raise TypeError(f"not an operation: {operation!r}")


@apply_one.register
def _(operation: Blur, image: Photo) -> Photo:
    return filter_image(image, blur_kernel(operation))


def blur_kernel(blur: Blur) -> kernels.Kernel:
    """The kernel of a blur."""
    shape = (blur.size, blur.sigma_x, blur.sigma_y, blur.rotation)
    if blur.kind == "gaussian":
        return kernels.gaussian_kernel(*shape)
    return {"generalised": kernels.generalised_kernel, "plateau": kernels.plateau_kernel}[blur.kind](*shape, blur.beta)


@apply_one.register
def _(operation: Sinc, image: Photo) -> Photo:
    return filter_image(image, kernels.sinc_kernel(operation.size, operation.cutoff))


@apply_one.register
def _(operation: Resize, image: Photo) -> Photo:
    size = (operation.width, operation.height)
    return cv2.resize(image, size, interpolation=INTERPOLATIONS[operation.interpolation])


@apply_one.register
def _(operation: GaussianNoise, image: Photo) -> Photo:
    return noise.add_gaussian(image, operation.sigma, operation.grey, operation.seed)


@apply_one.register
def _(operation: CorrelatedNoise, image: Photo) -> Photo:
    return noise.add_correlated(image, np.float32(operation.mixing), operation.seed)


@apply_one.register
def _(operation: PoissonNoise, image: Photo) -> Photo:
    return noise.add_poisson(image, operation.scale, operation.grey, operation.seed)


@apply_one.register
def _(operation: CameraNoise, image: Photo) -> Photo:
    gains = np.float32([operation.red_gain, 1, operation.blue_gain])
    return noise.add_camera(image, operation.shot, operation.read, gains, operation.seed)


@apply_one.register
def _(operation: Jpeg, image: Photo) -> Photo:
    bgr = cv2.cvtColor(to_uint8(image), cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, operation.quality])
    return to_float(cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB))


@apply_one.register
def _(operation: Quantise, image: Photo) -> Photo:
    return to_float(to_uint8(image))
