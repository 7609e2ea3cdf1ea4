"""Convolution with a point-symmetric kernel, borders reflected, in the cheapest way that is exact to about 1e-6."""

import cv2
import numpy as np
from jaxtyping import Float32

from diffbir_jax.degradation.kernels import Kernel
from diffbir_jax.degradation.pixels import Photo

BORDER = cv2.BORDER_REFLECT_101
NEGLIGIBLE = 2e-7  # the sum of the taps that may be left out: no pixel of [0, 1] changes by more
DIRECT = 11  # taps; OpenCV's direct filter is the fastest up to this size


def filter_image(image: Photo, kernel: Kernel) -> Photo:
    """The image filtered by the kernel, of any odd size; kernels with little at their rim, or separable, cost less."""
    kernel = crop_kernel(kernel)
    centre = len(kernel) // 2
    column, row = kernel[:, [centre]], kernel[[centre]] / kernel[centre, centre]
    if np.abs(kernel - column * row).sum() < NEGLIGIBLE:
        return cv2.filter2D(cv2.filter2D(image, -1, row, borderType=BORDER), -1, column, borderType=BORDER)
    return cv2.filter2D(image, -1, kernel, borderType=BORDER) if len(kernel) <= DIRECT else _filter_by_fourier(image, kernel)


def crop_kernel(kernel: Kernel) -> Kernel:
    """The middle of the kernel, where what is left out is negligible."""
    magnitude = np.abs(kernel)
    rest = magnitude.sum() - NEGLIGIBLE
    rim = 0
    while rim < len(kernel) // 2 and magnitude[rim + 1 : -rim - 1, rim + 1 : -rim - 1].sum() >= rest:
        rim += 1
    return kernel[rim : len(kernel) - rim, rim : len(kernel) - rim]


def _filter_by_fourier(image: Photo, kernel: Kernel) -> Photo:
    """By the convolution theorem, a channel at a time; the padding keeps the reflected borders apart."""
    (height, width), pad = image.shape[:2], len(kernel) // 2
    rows, columns = (cv2.getOptimalDFTSize(side + 2 * pad) for side in (height, width))
    spectrum = _spectrum(kernel, rows, columns)
    out = np.empty_like(image)
    for i in range(3):
        channel = cv2.extractChannel(image, i)
        padded = cv2.copyMakeBorder(channel, pad, rows - height - pad, pad, columns - width - pad, BORDER)
        product = cv2.mulSpectrums(cv2.dft(padded, dst=padded), spectrum, 0, c=padded)
        inverse = cv2.DFT_INVERSE | cv2.DFT_SCALE | cv2.DFT_REAL_OUTPUT
        full = cv2.dft(product, dst=product, flags=inverse, nonzeroRows=height + 2 * pad)
        cv2.insertChannel(full[2 * pad :, 2 * pad :][:height, :width], out, i)  # the kernel's corner, not its centre, is at 0
    return out


def _spectrum(kernel: Kernel, rows: int, columns: int) -> Float32[np.ndarray, "{rows} {columns}"]:
    """The kernel's Fourier transform in OpenCV's packed form."""
    padded = np.zeros((rows, columns), np.float32)
    padded[: len(kernel), : len(kernel)] = kernel
    return cv2.dft(padded, dst=padded, nonzeroRows=len(kernel))
