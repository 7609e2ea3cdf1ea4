"""Feature maps on the host, read and written tile by tile."""

from typing import NamedTuple

import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float64, Int


class Map(NamedTuple):
    """A feature map on the host, `values` times `unit` (a power of two: float16 reaches to 65504), and every channel's moments."""

    values: Float[np.ndarray, "1 H W C"]
    unit: float = 1.0
    mean: Float64[np.ndarray, "C"] | None = None
    variance: Float64[np.ndarray, "C"] | None = None


class Target:
    """A map in the making: a new one, or one to be replaced where it has the channels. Its unit grows with the values."""

    def __init__(self, shape: tuple[int, ...], storage: DTypeLike, onto: Map | None):
        self.in_place = onto is not None and onto.values.shape[-1] >= shape[-1]
        self.held = onto.values if self.in_place else np.zeros(shape, storage)
        self.values = self.held[..., : shape[-1]]
        self.old = 1.0 if onto is None else onto.unit
        self.unit = self.old if self.in_place else 1.0
        self.moments: list[list[np.ndarray]] = []

    @property
    def onto_unit(self) -> float:
        """The unit of what is not yet replaced."""
        return self.unit if self.in_place else self.old

    def put(self, place: tuple[int, int], part: Array, peak: Array, *moments: Array) -> None:
        """Writes a tile as far as it lies in the map; its peak and moments are those of that part."""
        self._reach(float(peak))
        y, x = place
        into = self.values[:, y : y + part.shape[1], x : x + part.shape[2]]
        into[:] = np.asarray(part)[:, : into.shape[1], : into.shape[2]] / np.float32(self.unit)
        self.moments.append([np.asarray(m, np.float64) for m in moments])

    def _reach(self, peak: float) -> None:
        limit = float(np.finfo(self.held.dtype).max) * self.unit
        if peak > limit:
            grown = 2.0 ** (np.ceil(np.log2(peak / limit)) + 3)
            self.held /= np.float32(grown)
            self.unit *= grown

    def map(self) -> Map:
        return Map(self.values, self.unit, *merged(self.moments))


def merged(moments: list[list[np.ndarray]]) -> tuple[Float64[np.ndarray, "C"], Float64[np.ndarray, "C"]]:
    """Mean and variance of all parts together (Chan et al. 1979)."""
    n, means, squares = (np.stack(column) for column in zip(*moments, strict=True))
    share = (n / n.sum())[:, None]
    mean = (share * means).sum(0)
    return mean, squares.sum(0) / n.sum() + (share * (means - mean) ** 2).sum(0)


def places(height: int, width: int, side: int) -> list[tuple[int, int]]:
    return [(y, x) for y in range(0, height, side) for x in range(0, width, side)]


def patch_of(values: np.ndarray, place: tuple[int, int], tile: int, resample: str | None) -> tuple[np.ndarray, np.ndarray]:
    """What a tile of the output at `place` is made of, with the convolution's halo, and which part of it is in the map."""
    y, x = place
    if resample == "down":  # padded by one at the end, see Downsample
        return cut(values, 2 * y, 2 * x, tile + 1, tile + 1)
    if resample == "up":
        return cut(values, y // 2 - 1, x // 2 - 1, tile // 2 + 2, tile // 2 + 2)
    return cut(values, y - 1, x - 1, tile + 2, tile + 2)


def cut(values: Float[np.ndarray, "1 H W C"], y: int, x: int, h: int, w: int) -> tuple[np.ndarray, Int[np.ndarray, "4"]]:
    """A copy of h x w places from (y, x) on, zero outside the map, and [top, left, bottom, right] of what is not."""
    height, width = values.shape[1:3]
    top, left, bottom, right = max(0, -y), max(0, -x), min(h, height - y), min(w, width - x)
    copy = np.zeros((1, h, w, values.shape[-1]), values.dtype)
    copy[:, top:bottom, left:right] = values[:, y + top : y + bottom, x + left : x + right]
    return copy, np.array([top, left, bottom, right], np.int32)
