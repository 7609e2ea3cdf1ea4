"""Noise on float32 RGB images in [0, 1]; every function returns a new image, clipped to [0, 1]."""

import cv2
import numpy as np
from jaxtyping import Float32

from diffbir_jax.degradation.photons import draw_photons
from diffbir_jax.degradation.pixels import LEVELS, Photo, to_uint8


def generator(seed: int) -> np.random.Generator:
    """Of the noise of one operation."""
    return np.random.Generator(np.random.SFC64(seed))


def add_gaussian(image: Photo, sigma: float, grey: bool, seed: int) -> Photo:
    """Normal noise of standard deviation `sigma`, the same in all channels where `grey`."""
    noise = generator(seed).standard_normal((*image.shape[:2], 1 if grey else 3), np.float32)
    return _add(image, noise, sigma)


def add_correlated(image: Photo, mixing: Float32[np.ndarray, "3 3"], seed: int) -> Photo:
    """Normal noise of covariance `mixing`ᵀ `mixing` between the channels (BSRGAN, section 3.3)."""
    noise = generator(seed).standard_normal(image.shape, np.float32)
    return _add(image, cv2.transform(noise, np.ascontiguousarray(mixing.T)))


def add_poisson(image: Photo, scale: float, grey: bool, seed: int) -> Photo:
    """Photon noise (Real-ESRGAN, section 3.2).

    The image, rounded to 8 bits, says how many photons to expect: white is as many as the next power of two of the levels in use.
    The error of that count, times `scale`, is added. Its variance at brightness v is scale² v / white.
    """
    pixels = to_uint8(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] if grey else image)
    levels = int(np.count_nonzero(cv2.calcHist([pixels.reshape(-1)], [0], None, [256], [0, 256])))
    white = 1 << (levels - 1).bit_length()
    noise = draw_photons(pixels, white, generator(seed))
    noise -= cv2.LUT(pixels, LEVELS * np.float32(white)).reshape(noise.shape)
    return _add(image, noise, scale / white)


def add_camera(image: Photo, shot: float, read: float, gains: Float32[np.ndarray, "3"], seed: int) -> Photo:
    """Noise of variance shot * x + read on the raw mosaic x (Brooks et al. 2019, "Unprocessing", sections 3.1 and 3.2).

    The camera is an idealised one: gamma 2.2 and the white balance `gains` (red, green, blue), RGGB pixels, bilinear demosaicing.
    """
    raw = _mosaic(cv2.pow(np.clip(image, 0, 1), 2.2) / gains)
    raw += np.sqrt(shot * raw + read, dtype=np.float32) * generator(seed).standard_normal(raw.shape, np.float32)
    bits = np.rint(np.clip(raw, 0, 1) * 65535).astype(np.uint16)
    linear = cv2.cvtColor(bits, cv2.COLOR_BayerRGGB2RGB) / np.float32(65535) * gains
    return cv2.pow(np.clip(linear, 0, 1), 1 / 2.2)


def _mosaic(image: Photo) -> Float32[np.ndarray, "H W"]:
    """One colour a pixel, rows of red and green, then green and blue."""
    raw = image[..., 1].copy()
    raw[::2, ::2], raw[1::2, 1::2] = image[::2, ::2, 0], image[1::2, 1::2, 2]
    return raw


def _add(image: Photo, noise: Float32[np.ndarray, "H W c"], scale: float = 1.0) -> Photo:
    """The image with `scale` times the noise, clipped; grey noise goes to all channels. `noise` is used up."""
    noise = noise if noise.shape == image.shape else cv2.cvtColor(noise, cv2.COLOR_GRAY2RGB)
    total = cv2.scaleAdd(noise, scale, image, dst=noise)
    return np.clip(total, 0, 1, out=total)
