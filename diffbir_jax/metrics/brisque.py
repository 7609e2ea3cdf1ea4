"""BRISQUE (Mittal, Moorthy and Bovik, "No-reference image quality assessment in the spatial domain", 2012)."""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float64
from scipy.optimize import brentq
from scipy.special import gamma

from diffbir_jax.errors import InputError
from diffbir_jax.metrics.naturalness import Plane, moments, mscn, ratio
from diffbir_jax.metrics.stored import plain_pickle
from diffbir_jax.packages import Archives

GREY = np.array([0.2125, 0.7154, 0.0721])
SMALLEST = 32


class Regression(NamedTuple):
    """A support vector regression with a Gaussian kernel, and the range of each feature it was trained on."""

    low: Float64[np.ndarray, "36"]
    high: Float64[np.ndarray, "36"]
    vectors: Float64[np.ndarray, "N 36"]
    weights: Float64[np.ndarray, "N"]
    rho: float
    gamma: float


def load_brisque(archives: Archives) -> Callable[[Float[np.ndarray, "H W 3"]], float]:
    """BRISQUE with the regression of the package brisque, trained on LIVE.

    Raises:
        Unavailable: the package is not there.
    """
    ranges = plain_pickle(archives.read("normalize.pickle"))
    svm = read_svm(archives.read("svm.txt").decode())
    regression = Regression(*(np.array(ranges[key], np.float64) for key in ("min_", "max_")), *svm)
    return lambda image: brisque(image, regression)


def read_svm(text: str) -> tuple[Float64[np.ndarray, "N 36"], Float64[np.ndarray, "N"], float, float]:
    """libsvm's text format: support vectors, their weights, rho and gamma."""
    head, _, body = text.partition("\nSV\n")
    facts = dict(line.split(" ", 1) for line in head.splitlines())
    rows = [line.split() for line in body.splitlines()]
    vectors = np.zeros((len(rows), 36))
    for vector, (_, *pairs) in zip(vectors, rows, strict=True):
        for pair in pairs:  # zeros are left out
            index, value = pair.split(":")
            vector[int(index) - 1] = float(value)
    return vectors, np.array([float(weight) for weight, *_ in rows]), float(facts["rho"]), float(facts["gamma"])


def brisque(image: Float[np.ndarray, "H W 3"], regression: Regression) -> float:
    """About 0 (best) to 100 (worst).

    Raises:
        InputError: smaller than 32x32, or flat.
    """
    height, width = image.shape[:2]
    found = features(image) if min(height, width) >= SMALLEST else np.array([np.nan])
    if not np.isfinite(found).all():
        raise InputError(f"BRISQUE needs {SMALLEST}x{SMALLEST} pixels that are not flat; this has {width}x{height}")
    low, high, vectors, weights, rho, width = regression
    scaled = 2 * (found - low) / (high - low) - 1
    return float(weights @ np.exp(-width * np.sum((vectors - scaled) ** 2, axis=1)) - rho)


def features(image: Float[np.ndarray, "H W 3"]) -> Float64[np.ndarray, "36"]:
    """18 features of the grey image, and 18 of it at half size (cubic, not antialiased: the model was trained so)."""
    grey = 255 * (image.astype(np.float64) @ GREY)
    return np.array(_features_at(grey) + _features_at(cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)))


def _features_at(grey: Plane) -> list[float]:
    x = mscn(grey, cv2.BORDER_CONSTANT)
    alpha, left, right = _fit(x)
    found = [alpha, (left**2 + right**2) / 2]
    for product in (x[:, :-1] * x[:, 1:], x[:-1] * x[1:], x[:-1, :-1] * x[1:, 1:], x[1:, :-1] * x[:-1, 1:]):
        alpha, left, right = _fit(product)
        mean = (right - left) * gamma(2 / alpha) / np.sqrt(gamma(1 / alpha) * gamma(3 / alpha))
        found += [alpha, mean, left**2, right**2]
    return found


def _fit(x: Plane) -> tuple[float, float, float]:
    """The asymmetric generalised Gaussian's shape and its two deviations."""
    wanted, left, right = moments(x)
    reachable = ratio(0.05) < wanted < ratio(50.0)
    alpha = brentq(lambda a: ratio(a) - wanted, 0.05, 50.0) if reachable else np.nan
    return float(alpha), left, right
