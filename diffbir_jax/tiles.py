"""Overlapping windows over a map, and the weights that blend what is computed in them."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from diffbir_jax.errors import InputError

VARIANCE = 0.01  # of the squared side


def gaussian_weights(height: int, width: int) -> Float[np.ndarray, "{height} {width}"]:
    """The Gaussian that DiffBIR blends tiles with; its middle is (width - 1) / 2, but height / 2, as in the original."""
    return np.outer(gaussian(height, height / 2), gaussian(width, (width - 1) / 2))


def gaussian(side: int, middle: float) -> Float[np.ndarray, "{side}"]:
    """One factor of `gaussian_weights`, float64."""
    return np.exp(-(((np.arange(side) - middle) / side) ** 2) / (2 * VARIANCE)) / np.sqrt(2 * np.pi * VARIANCE)


class Axis(NamedTuple):
    """Windows along one axis. The weights of all windows sum to 1 at every place that they cover.

    Windows past the first `used` are there for the shape alone; their weights are 0.
    """

    starts: Int[Array, "n"]
    weights: Float[Array, "n side"]
    used: Int[Array, ""]


def count(length: int, tile: int, overlap: int) -> int:
    """Windows of side `tile` that it takes to cover `length`."""
    return 1 + max(0, -(-(length - tile) // (tile - overlap)))


def axis(length: int, profile: Float[np.ndarray, "side"], overlap: int, covered: ArrayLike | None = None) -> Axis:
    """Windows at equal strides over the first `covered` (may be traced; None: all) of `length` places, the last moved back.

    Args:
        length: of the array, at least the profile's side.
        profile: a window's weights before they are normalised.
        overlap: of neighbours; the last two may overlap by more.
        covered: a window reaches further only where this is smaller than a window.
    """
    side, covered = len(profile), jnp.asarray(length if covered is None else covered)
    overlap = min(overlap, side - 1)
    at = jnp.arange(count(length, side, overlap))
    used = 1 + jnp.maximum(0, -(-(covered - side) // (side - overlap)))
    starts = jnp.minimum(at * (side - overlap), jnp.maximum(covered - side, 0))
    weights = jnp.where((at < used)[:, None], jnp.asarray(profile, jnp.float32)[None], 0)
    places = starts[:, None] + jnp.arange(side)[None]
    total = jnp.zeros(length).at[places].add(weights)
    return Axis(starts, weights / jnp.maximum(total[places], 1e-30), used)


class Grid(NamedTuple):
    """Windows over a map, row by row, all of one size."""

    rows: Axis
    columns: Axis

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of a window."""
        return self.rows.weights.shape[1], self.columns.weights.shape[1]

    @property
    def total(self) -> int:
        """Windows, the used and the others."""
        return len(self.rows.starts) * len(self.columns.starts)


def grid(
    size: tuple[int, int], tile: tuple[int, int], overlap: int, factor: int = 1, covered: tuple[ArrayLike, ArrayLike] | None = None
) -> Grid:
    """Windows of `tile` (height, width; clipped to `size`) with Gaussian weights; all of it `factor` times as large.

    Raises:
        InputError: the overlap is not less than the tile.
    """
    if not 0 <= overlap < max(tile):
        raise InputError(f"tiles of {tile[1]}x{tile[0]} overlap by {overlap}; give an overlap of 0 to {max(tile) - 1}")
    axes = []
    for length, side, n, shift in zip(size, tile, covered or size, (0, 1), strict=True):
        side = factor * min(side, length)
        axes.append(axis(factor * length, gaussian(side, (side - shift) / 2), factor * overlap, factor * n))
    return Grid(*axes)
