"""Blur kernels in NumPy, float64, each summing to 1: rows are y, columns x, the centre in the middle of an odd size."""

import numpy as np
from jaxtyping import Float

Kernel = Float[np.ndarray, "_ _"]


def gaussian_taps(size: int, sigma: float) -> Float[np.ndarray, "n"]:
    """The isotropic Gaussian of `size` (odd) taps in one dimension; its outer product with itself is the two-dimensional kernel."""
    x = np.arange(size) - size // 2
    taps = np.exp(-0.5 * (x / sigma) ** 2)
    return taps / taps.sum()


def gaussian_kernel(size: int, sigma_x: float, sigma_y: float, rotation: float) -> Kernel:
    """A Gaussian of standard deviations `sigma_x`, `sigma_y` (pixels) turned by `rotation` (radians).

    The covariance is R diag(sigma_x², sigma_y²) Rᵀ.
    """
    return generalised_kernel(size, sigma_x, sigma_y, rotation, 1.0)


def generalised_kernel(size: int, sigma_x: float, sigma_y: float, rotation: float, beta: float) -> Kernel:
    """exp(-d^beta / 2) of the squared distance d: peaked below beta 1, flat-topped above (Real-ESRGAN, section 3.1)."""
    return _unit_sum(np.exp(-0.5 * _distance(size, sigma_x, sigma_y, rotation) ** beta))


def plateau_kernel(size: int, sigma_x: float, sigma_y: float, rotation: float, beta: float) -> Kernel:
    """1 / (1 + d^beta) of the squared distance d: a plateau with heavy tails (Real-ESRGAN, section 3.1)."""
    return _unit_sum(1 / (1 + _distance(size, sigma_x, sigma_y, rotation) ** beta))


def sinc_kernel(size: int, cutoff: float) -> Kernel:
    """The circular low-pass filter of `cutoff` (radians per pixel, at most pi), cut to a square (Real-ESRGAN, section 3.3)."""
    y, x = np.mgrid[:size, :size] - size // 2
    squares, places = np.unique(x * x + y * y, return_inverse=True)
    radius = np.sqrt(squares[1:])
    values = np.concatenate([[cutoff / 2], bessel_j1(cutoff * radius) / radius])  # both times cutoff / 2 pi
    return _unit_sum(values[places].reshape(size, size))


def bessel_j1(x: Float[np.ndarray, "n"], nodes: int = 96) -> Float[np.ndarray, "n"]:
    """The Bessel function J1 for 0 <= x <= 150, from its integral, where the midpoint rule converges geometrically."""
    angle = (np.arange(nodes) + 0.5) * np.pi / nodes
    return np.cos(angle - x[:, None] * np.sin(angle)).mean(-1)


def _distance(size: int, sigma_x: float, sigma_y: float, rotation: float) -> Kernel:
    """The squared distance from the centre in units of the sigmas, along the turned axes."""
    x = np.arange(size) - size // 2
    y, cos, sin = x[:, None], np.cos(rotation), np.sin(rotation)
    return ((cos * x + sin * y) / sigma_x) ** 2 + ((cos * y - sin * x) / sigma_y) ** 2


def _unit_sum(kernel: Kernel) -> Kernel:
    return kernel / kernel.sum()
