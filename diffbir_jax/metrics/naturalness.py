"""Statistics of natural scenes, which NIQE and BRISQUE share: normalised luminance and the distributions of its products."""

import cv2
import numpy as np
from jaxtyping import Float64
from scipy.special import gamma

Plane = Float64[np.ndarray, "H W"]


def mscn(image: Plane, border: int) -> Plane:
    """Mean subtracted, contrast normalised luminance (Mittal et al. 2012, equation 1): Gaussian 7x7, sigma 7/6, C = 1.

    Flat areas are exactly zero: rounding must not decide on which side of zero they lie.

    Args:
        image: in [0, 255].
        border: OpenCV's: BORDER_REPLICATE, or BORDER_CONSTANT for zeros.
    """
    mean = _blur(image, border)
    deviation = np.sqrt(np.abs(_blur(image * image, border) - mean * mean))
    normal = (image - mean) / (deviation + 1)
    return np.where(np.abs(normal) < 1e-9, 0, normal)


def _blur(image: Plane, border: int) -> Plane:
    taps = np.exp(-0.5 * (np.arange(-3, 4) / (7 / 6)) ** 2)
    return cv2.sepFilter2D(image, cv2.CV_64F, taps / taps.sum(), taps / taps.sum(), borderType=border)


def ratio(alpha: float | Float64[np.ndarray, "N"]) -> float | Float64[np.ndarray, "N"]:
    """E[|x|]^2 / E[x^2] of the generalised Gaussian with shape alpha; rises with alpha."""
    return gamma(2 / alpha) ** 2 / (gamma(1 / alpha) * gamma(3 / alpha))


def moments(x: Float64[np.ndarray, "..."]) -> tuple[float, float, float]:
    """What the asymmetric generalised Gaussian is fitted to by moment matching (Lasmar et al. 2009).

    Returns:
        The `ratio` its shape should have, and the deviations below and above zero; NaN where there is no such value.
    """
    below, above = x[x < 0], x[x > 0]
    if not below.size or not above.size:
        return np.nan, np.nan, np.nan
    left, right = np.sqrt(np.mean(below**2)), np.sqrt(np.mean(above**2))
    skew = left / right
    wanted = np.mean(np.abs(x)) ** 2 / np.mean(x * x) * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    return float(wanted), float(left), float(right)
