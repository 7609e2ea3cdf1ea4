"""Poisson draws at the 256 rates of an 8-bit image, by tables: several times as fast as one draw at a time."""

from functools import cache

import numpy as np
from jaxtyping import Float32, Int, Int16, Int64, UInt8, UInt32

from diffbir_jax.degradation.pixels import LEVELS

CELL_BITS = 11
PART = 2**16


def draw_photons(pixels: UInt8[np.ndarray, "H W c"], white: int, rng: np.random.Generator) -> Float32[np.ndarray, "H W c"]:
    """Poisson counts of the mean white * pixels / 255."""
    return count_photons(pixels, white, rng.integers(2**32, size=pixels.shape, dtype=np.uint32))


def count_photons(
    pixels: UInt8[np.ndarray, "H W c"], white: int, uniform: UInt32[np.ndarray, "H W c"]
) -> Float32[np.ndarray, "H W c"]:
    """The count that each of the uniform 32-bit numbers means: the inverse of the distribution function.

    The first bits of a uniform number look up its count; in the few cells that hold several counts it climbs from the least.
    """
    table, cumulative = photon_tables(white)
    level, uniform = pixels.ravel(), uniform.ravel()
    counts = _look_up(table.ravel(), level, uniform)
    unsure = np.flatnonzero(counts < 0)
    least = -1 - counts[unsure].astype(np.intp)
    counts[unsure] = _climb(least, uniform[unsure], cumulative.ravel(), level[unsure] * np.intp(cumulative.shape[1]))
    return counts.reshape(pixels.shape)


def _look_up(
    table: Int16[np.ndarray, "t"], level: UInt8[np.ndarray, "n"], uniform: UInt32[np.ndarray, "n"]
) -> Float32[np.ndarray, "n"]:
    """The table's entry for each number, in parts that stay in the cache."""
    counts = np.empty(level.size, np.float32)
    for part in (slice(start, start + PART) for start in range(0, level.size, PART)):
        cell = level[part].astype(np.intp)
        cell <<= CELL_BITS
        cell |= uniform[part] >> np.uint32(32 - CELL_BITS)
        counts[part] = table.take(cell)
    return counts


def _climb(
    least: Int[np.ndarray, "n"], uniform: UInt32[np.ndarray, "n"], cumulative: Int64[np.ndarray, "m"], row
) -> Int[np.ndarray, "n"]:
    """The counts, from `least` on, whose cumulative probability first exceeds the uniform number; a level's begin at `row`."""
    counts, low = least.copy(), np.arange(least.size)
    while (low := low[uniform[low] >= cumulative.take(row[low] + counts[low])]).size:
        counts[low] += 1
    return counts


@cache
def photon_tables(white: int) -> tuple[Int16[np.ndarray, "256 c"], Int64[np.ndarray, "256 k"]]:
    """For each level: the count of each cell of uniform numbers, or -1 - the least where it holds several; and the cumulative
    probabilities times 2^32."""
    counts = np.arange(white + 10 * int(white**0.5) + 20)
    log_factorial = np.concatenate([[0], np.log(counts[1:]).cumsum()])
    rate = np.maximum(white * LEVELS.astype(np.float64), 1e-30)[:, None]
    total = np.exp(counts * np.log(rate) - rate - log_factorial).cumsum(1)
    cumulative = np.rint(total * 2**32).astype(np.int64)
    cumulative[:, -1] = 2**32
    first = np.arange(2**CELL_BITS, dtype=np.uint32) << np.uint32(32 - CELL_BITS)
    last = first | np.uint32(2 ** (32 - CELL_BITS) - 1)
    least, most = (np.stack([np.searchsorted(row, ends, side="right") for row in cumulative]) for ends in (first, last))
    return np.where(least == most, least, -1 - least).astype(np.int16), cumulative
