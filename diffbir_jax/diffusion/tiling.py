"""Networks over tiles of one latent, blended at every call, so that memory does not grow with the image (Mixture of Diffusers,
Barbero Jiménez 2023; DiffBIR's tiled sampling). Everything here is one jitted program whose windows may be traced."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Num

from diffbir_jax.tiles import Grid, grid
from diffbir_jax.types import Image, Latent

Conditional = Callable[..., Any]  # (z_t, t, conditions) -> eps or v, or as in reuse.py
Covered = tuple[ArrayLike, ArrayLike]  # height, width of the part of a latent that counts
Cut = Callable[[Float[Array, "B h w _"]], Float[Array, "N th tw _"]]


def tiled(
    predict: Conditional, tile: int, overlap: int, batch: int = 1, covered: Covered | None = None, keeps: bool = False
) -> Conditional:
    """`predict` over tiles, their predictions averaged with Gaussian weights.

    Args:
        predict: (z_t, t, given) -> eps or v, of any batch. Leaves of `given` with the latent's height and width are cut as z_t is,
            others (a text's context) go to every tile.
        tile: side of a tile in latent pixels, a multiple of what the network needs; clipped to the latent.
        overlap: of neighbouring tiles, less than `tile`.
        batch: tiles at once, if there are so many.
        covered: height and width that tiles are laid over, may be traced; the rest of the latent is padding, which is predicted
            as 0 and costs nothing. None: all of it.
        keeps: `predict` returns a pair, of eps or v and what it keeps (see reuse.py); what comes after `given` was kept at
            the same tiles.

    Raises:
        InputError: when called, the overlap is not less than the tile.
    """

    def predict_tiled(z_t: Latent, t: Num[Array, "B"], given: Any, *kept: Any) -> Any:
        windows = grid(z_t.shape[1:3], (tile, tile), overlap, covered=covered)
        once = min(batch, windows.total)

        def inputs(x: Array, cut: Cut) -> Array:
            return cut(x) if x.ndim == 4 and x.shape[1:3] == z_t.shape[1:3] else jnp.tile(x, (once, *[1] * (x.ndim - 1)))

        def network(cut: Cut, *kept: Any) -> Any:
            return predict(cut(z_t), jnp.tile(t, once), jax.tree.map(lambda x: inputs(x, cut), given), *kept)

        blended, keep = _blended(network, windows, z_t.shape, once, kept=kept, keeps=keeps)
        return (blended, keep) if keeps else blended

    return predict_tiled


def tiled_decode(
    decode: Callable[[Latent], Image], factor: int, tile: int, overlap: int, covered: Covered | None = None
) -> Callable[[Latent], Image]:
    """`decode` over tiles with Gaussian weights, to be differentiated: for `rgb_guidance` of images that do not fit whole.

    Forward and backward pass hold one tile's activations. GroupNorms see a tile's statistics, so a final decode is better done by
    `models.layerwise`.

    Args:
        decode: latent -> image.
        factor: image pixels along one side of a latent pixel.
        tile: side of a tile in latent pixels, clipped to the latent; `overlap` and `covered` as in `tiled`.

    Raises:
        InputError: when called, the overlap is not less than the tile.
    """

    def decode_tiled(latent: Latent) -> Image:
        b, h, w, _ = latent.shape
        windows = grid((h, w), (tile, tile), overlap, factor, covered)
        network = jax.checkpoint(lambda z: decode(z))
        return _blended(lambda cut: network(cut(latent)), windows, (b, factor * h, factor * w, 3), 1, factor)[0]

    return decode_tiled


def _blended(
    network: Callable[..., Any],
    windows: Grid,
    shape: tuple[int, ...],
    batch: int,
    factor: int = 1,
    kept: tuple[Any, ...] = (),
    keeps: bool = False,
) -> tuple[Float[Array, "B H W C"], Any]:
    """The weighted sum of what `network` makes of the windows, `batch` at a time; groups beyond the last are not computed.

    What the network keeps comes back stacked, groups first, as `kept` gives it.
    """
    (rows, columns), sides, total = windows, windows.sides, windows.total

    def group(done: Array, numbered: tuple[Int[Array, "K"], Any]) -> tuple[Array, Any]:
        numbers, kept = numbered
        row, column = numbers // columns.used, numbers % columns.used
        real = numbers < rows.used * columns.used
        row = jnp.minimum(row, len(rows.starts) - 1)
        y, x = rows.starts[row] // factor, columns.starts[column] // factor

        def cut(z: Array) -> Array:
            shape = (z.shape[0], *(side // factor for side in sides), z.shape[-1])
            return jnp.concatenate([jax.lax.dynamic_slice(z, (0, y[i], x[i], 0), shape) for i in range(batch)])

        def computed() -> tuple[Array, Any]:
            out, *keep = network(cut, *kept) if keeps else (network(cut, *kept),)
            return out.astype(jnp.float32), keep

        like = jax.eval_shape(computed)[1] if keeps else []
        nothing = jnp.zeros((batch * shape[0], *sides, shape[-1])), jax.tree.map(jnp.zeros_like, like)
        out, keep = jax.lax.cond(real[0], computed, lambda: nothing)
        for i, part in enumerate(jnp.split(out, batch)):
            weights = real[i] * rows.weights[row[i]][:, None] * columns.weights[column[i]][None]
            at = (0, factor * y[i], factor * x[i], 0)
            old = jax.lax.dynamic_slice(done, at, part.shape)
            done = jax.lax.dynamic_update_slice(done, old + weights[None, :, :, None] * part, at)
        return done, keep[0] if keeps else None

    numbers = jnp.arange(total + -total % batch).reshape(-1, batch)
    return jax.lax.scan(group, jnp.zeros(shape), (numbers, kept))
