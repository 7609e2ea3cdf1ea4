"""Stage 1 over tiles of a photograph, blended on the host."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float, Float32

from diffbir_jax.tiles import grid


def tiled_image(
    network: Callable[[Float32[np.ndarray, "1 th tw 3"]], Float[Array | np.ndarray, "1 TH TW 3"]],
    image: Float32[np.ndarray, "1 H W 3"],
    tile: tuple[int, int],
    overlap: int,
) -> Float32[np.ndarray, "1 _ _ 3"]:
    """`network` over tiles of one shape, blended with Gaussian weights.

    Args:
        network: image -> image, or one that is a whole number of times as large.
        image: in [0, 1]. Where the network takes only multiples of some number, the image's sides, the tile's and the overlap are
            such: then every tile lies as it does in the whole, and differs from it only by what it does not see.
        tile: height and width of a tile, at most the image's.
        overlap: of neighbouring tiles, less than a tile.

    Returns:
        float32, as many times as large as the image as the network makes it.

    Raises:
        InputError: the overlap is not less than the tile.
    """

    def run(at: tuple[int, int]) -> np.ndarray:
        return np.asarray(network(image[:, at[0] : at[0] + tile[0], at[1] : at[1] + tile[1]]))

    factor = run((0, 0)).shape[1] // tile[0]
    rows, columns = grid(image.shape[1:3], tile, overlap, factor)
    out = np.zeros((1, *(factor * n for n in image.shape[1:3]), 3), np.float32)
    for y, of_rows in zip(np.asarray(rows.starts).tolist(), np.asarray(rows.weights), strict=True):
        for x, of_columns in zip(np.asarray(columns.starts).tolist(), np.asarray(columns.weights), strict=True):
            weights = np.outer(of_rows, of_columns)[None, :, :, None]
            out[:, y : y + weights.shape[1], x : x + weights.shape[2]] += weights * run((y // factor, x // factor))
    return out
