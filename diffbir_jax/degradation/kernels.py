"""Blur kernels in NumPy, float64, each summing to 1."""

import numpy as np
from jaxtyping import Float


def gaussian_taps(size: int, sigma: float) -> Float[np.ndarray, "n"]:
    """The isotropic Gaussian of `size` (odd) taps in one dimension; its outer product with itself is the two-dimensional kernel."""
    x = np.arange(size) - size // 2
    taps = np.exp(-0.5 * (x / sigma) ** 2)
    return taps / taps.sum()


def gaussian_kernel(size: int, sigma_x: float, sigma_y: float, rotation: float) -> Float[np.ndarray, "n n"]:
    """A Gaussian of standard deviations `sigma_x`, `sigma_y` (pixels) turned by `rotation` (radians), `size` odd.

    The covariance is R diag(sigma_x², sigma_y²) Rᵀ; rows of the kernel are y, columns x.
    """
    cos, sin = np.cos(rotation), np.sin(rotation)
    y, x = np.mgrid[:size, :size] - size // 2
    along, across = cos * x + sin * y, cos * y - sin * x
    kernel = np.exp(-0.5 * ((along / sigma_x) ** 2 + (across / sigma_y) ** 2))
    return kernel / kernel.sum()
