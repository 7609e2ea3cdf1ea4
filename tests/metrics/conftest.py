"""Packages with weights, where someone has put them: `diffbir_jax.evaluate --help` says how."""

from pathlib import Path

import numpy as np
import pytest

from diffbir_jax.imaging.reading import read_picture
from diffbir_jax.packages import Archives, Package, Unavailable
from diffbir_jax.weights.hub import home

PHOTOS = Path(__file__).parents[1] / "data" / "photos"
NAMES = ("astronaut_01", "carcassonne_01", "chelsea_01", "red_panda_01", "petra_01")


def photo(name: str) -> np.ndarray:
    """A photograph in [0, 1]."""
    return read_picture(PHOTOS / f"{name}.webp").pixels


def worn(image: np.ndarray) -> np.ndarray:
    """A 3x3 mean of 8 bits, rounded down to multiples of 12: as the golden values were made."""
    height, width = image.shape[:2]
    padded = np.pad(np.rint(255 * image).astype(np.int64), ((1, 1), (1, 1), (0, 0)), mode="edge")
    total = sum(padded[i : i + height, j : j + width] for i in range(3) for j in range(3))
    return (total // 9 // 12 * 12 / 255).astype(np.float32)


@pytest.fixture
def packages():
    """`packages(PACKAGE)`: the archives that hold it; skips where it is not there."""

    def having(package: Package) -> Archives:
        archives = Archives(home() / "metrics")
        try:
            archives.find(package)
        except Unavailable as error:
            pytest.skip(str(error))
        return archives

    return having
