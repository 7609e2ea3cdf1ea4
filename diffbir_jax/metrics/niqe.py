"""NIQE (Mittal, Soundararajan and Bovik, "Making a completely blind image quality analyzer", 2013)."""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float, Float64
from scipy.special import gamma

from diffbir_jax.errors import InputError
from diffbir_jax.metrics.fidelity import luma
from diffbir_jax.metrics.naturalness import Plane, moments, mscn, ratio
from diffbir_jax.metrics.stored import arrays
from diffbir_jax.packages import Archives

BLOCK = 96
SHAPES = np.arange(0.2, 10.001, 0.001)  # where alpha is sought
RATIOS = ratio(SHAPES)
SHIFTS = (0, 1), (1, 0), (1, 1), (1, -1)


def load_niqe(archives: Archives) -> Callable[[Float[np.ndarray, "H W 3"]], float]:
    """NIQE with the pristine model of the authors' release, as BasicSR stores it.

    Raises:
        Unavailable: the package is not there.
    """
    held = arrays(archives.read("niqe_pris_params.npz"))
    mean, covariance = held["mu_pris_param"].ravel(), held["cov_pris_param"]
    return lambda image: niqe(image, mean, covariance)


def niqe(image: Float[np.ndarray, "H W 3"], mean: Float64[np.ndarray, "36"], covariance: Float64[np.ndarray, "36 36"]) -> float:
    """The distance of an image's statistics from those of pristine ones (equation 10), on luma of 8 bits.

    Raises:
        InputError: fewer than two blocks of 96x96.
    """
    features = block_features(np.rint(255 * luma(image)))
    features = features[np.isfinite(features).all(1)]  # a flat block has no distribution
    if len(features) < 2:
        height, width = image.shape[:2]
        raise InputError(f"NIQE needs two blocks of {BLOCK}x{BLOCK} that are not flat; this has {width}x{height} pixels")
    off = mean - features.mean(0)
    return float(np.sqrt(off @ np.linalg.pinv((covariance + np.cov(features, rowvar=False)) / 2) @ off))


def block_features(grey: Plane) -> Float64[np.ndarray, "blocks 36"]:
    """18 features a block of 96x96 of `grey` in [0, 255], and 18 of it at half size; what fits no block is left out."""
    height, width = (side // BLOCK * BLOCK for side in grey.shape)
    if not height * width:
        return np.zeros((0, 36))
    scales = grey[:height, :width], halve(grey[:height, :width])
    return np.concatenate([_features_at(plane, BLOCK // factor) for plane, factor in zip(scales, (1, 2), strict=True)], axis=1)


def _features_at(grey: Plane, block: int) -> Float64[np.ndarray, "blocks 18"]:
    normal = mscn(grey, cv2.BORDER_REPLICATE)
    corners = np.ndindex(grey.shape[0] // block, grey.shape[1] // block)
    return np.array([features(normal[i * block : (i + 1) * block, j * block : (j + 1) * block]) for i, j in corners])


def features(block: Plane) -> list[float]:
    """Shape and width of a block's distribution; shape, mean and both widths of its products with four neighbours, cyclic."""
    alpha, left, right = _fit(block)
    found = [alpha, (left + right) / 2]
    for shift in SHIFTS:
        alpha, left, right = _fit(block * np.roll(block, shift, (0, 1)))
        found += [alpha, (right - left) * gamma(2 / alpha) / gamma(1 / alpha), left, right]
    return found


def _fit(x: Plane) -> tuple[float, float, float]:
    """The asymmetric generalised Gaussian's shape and its two widths beta (equations 4 to 7)."""
    wanted, left, right = moments(x)
    alpha = SHAPES[np.argmin((RATIOS - wanted) ** 2)] if np.isfinite(wanted) else np.nan
    width = np.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
    return float(alpha), float(left * width), float(right * width)


def halve(grey: Plane) -> Float64[np.ndarray, "h w"]:
    """MATLAB's imresize(grey, 0.5): bicubic (a = -1/2), antialiased, borders mirrored. The sides are even."""
    at = np.abs(np.arange(-3.5, 4) / 2)
    taps = np.where(at <= 1, 1.5 * at**3 - 2.5 * at**2 + 1, -0.5 * at**3 + 2.5 * at**2 - 4 * at + 2) / 2
    for axis in (0, 1):
        padded = np.pad(grey, [(3, 3) if axis == a else (0, 0) for a in (0, 1)], mode="symmetric")
        length = grey.shape[axis]
        grey = sum(tap * padded.take(range(k, k + length, 2), axis) for k, tap in enumerate(taps))
    return grey
