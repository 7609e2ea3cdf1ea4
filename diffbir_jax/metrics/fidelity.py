"""Distances to a reference by definition: PSNR and SSIM, of RGB or of luma."""

import math

import cv2
import numpy as np
from jaxtyping import Float, Float64

from diffbir_jax.errors import InputError

WINDOW, SIGMA = 11, 1.5  # of SSIM; the window is the Gaussian cut at 3.5 sigma

Pixels = Float[np.ndarray, "H W *C"]


def luma(image: Float[np.ndarray, "H W 3"]) -> Float64[np.ndarray, "H W"]:
    """Y of RGB in [0, 1] as MATLAB's rgb2ycbcr and the super-resolution papers take it (BT.601): from 16/255 to 235/255."""
    return (16 + image.astype(np.float64) @ np.array([65.481, 128.553, 24.966])) / 255


def crop(image: Pixels, border: int) -> Float[np.ndarray, "h w *C"]:
    """Without `border` pixels on each side.

    Raises:
        InputError: nothing would be left.
    """
    height, width = image.shape[:2]
    if 2 * border >= min(height, width):
        raise InputError(f"nothing is left of {width}x{height} without a border of {border} pixels; give a smaller one")
    return image[border : height - border, border : width - border]


def psnr(image: Pixels, reference: Pixels) -> float:
    """Peak signal-to-noise ratio in dB for values in [0, 1]; infinite where both are equal."""
    error = np.mean((image.astype(np.float64) - reference) ** 2)
    return float(-10 * np.log10(error)) if error else math.inf


def ssim(image: Pixels, reference: Pixels) -> float:
    """Structural similarity (Wang et al. 2004, equation 13): Gaussian 11x11, sigma 1.5, K1 = 0.01, K2 = 0.03, range [0, 1].

    The mean over all pixels whose window lies inside the image, and over channels.

    Raises:
        InputError: a side is shorter than the window.
    """
    height, width = image.shape[:2]
    if min(height, width) < WINDOW:
        raise InputError(f"SSIM needs {WINDOW}x{WINDOW} pixels; this has {width}x{height}")
    x, y = image.astype(np.float64), reference.astype(np.float64)
    mx, my = _blur(x), _blur(y)
    vx, vy, cov = _blur(x * x) - mx * mx, _blur(y * y) - my * my, _blur(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return float(crop(similarity, WINDOW // 2).mean())


def sharpness(image: Float[np.ndarray, "H W 3"], reference: Float[np.ndarray, "H W 3"]) -> float:
    """Variance of the Laplacian of the grey image, in proportion to the reference's: 1 where equally sharp. Noise counts as well.

    Raises:
        InputError: the reference has no detail at all.
    """
    ours, theirs = (cv2.Laplacian(luma(each), cv2.CV_64F).var() for each in (image, reference))
    if not theirs:
        raise InputError("sharpness is in proportion to the reference's, and this one is flat")
    return float(ours / theirs)


def colour_shift(image: Float[np.ndarray, "H W 3"], reference: Float[np.ndarray, "h w 3"]) -> Float64[np.ndarray, "3"]:
    """How much brighter the mean of R, G and B is than the reference's, of 255."""
    return 255 * (image.mean((0, 1), dtype=np.float64) - reference.mean((0, 1), dtype=np.float64))


def _blur(image: Float64[np.ndarray, "H W *C"]) -> Float64[np.ndarray, "H W *C"]:
    return cv2.GaussianBlur(image, (WINDOW, WINDOW), SIGMA)
