"""Attention inside square windows, plain or cyclically shifted (Swin Transformer, sections 3.1 and 3.2). Maps are NHWC."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


def partition(x: Float[Array, "B H W C"], window: int) -> Float[Array, "M N C"]:
    """All windows as one batch, row by row; N = window², H and W are multiples of `window`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // window, window, w // window, window, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, window * window, c)


def merge(windows: Float[Array, "M N C"], height: int, width: int) -> Float[Array, "B {height} {width} C"]:
    """The inverse of `partition`."""
    side, c = round(windows.shape[1] ** 0.5), windows.shape[-1]
    x = windows.reshape(-1, height // side, width // side, side, side, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height, width, c)


@lru_cache
def relative_index(window: int) -> Int[np.ndarray, "N N"]:
    """For every pair of a window's positions, the row of their offset in a table of (2 window - 1)² offsets."""
    y, x = np.divmod(np.arange(window * window), window)
    return (y[:, None] - y + window - 1) * (2 * window - 1) + x[:, None] - x + window - 1


@lru_cache
def shift_mask(height: int, width: int, window: int, shift: int) -> Bool[np.ndarray, "M N N"]:
    """True where two positions of a window were not neighbours before the map was rolled by `shift`; M windows of one map."""

    def halves(size: int) -> np.ndarray:
        rolled_in = np.arange(size) >= size - shift
        return rolled_in.reshape(-1, window)

    rows, columns = halves(height), halves(width)
    regions = rows[:, None, :, None] + 2 * columns[None, :, None, :]
    regions = regions.reshape(-1, window * window)
    return regions[:, :, None] != regions[:, None, :]


def window_attention(
    qkv: Float[Array, "M N D3"], bias: Float[Array, "heads N N"], mask: Bool[np.ndarray, "m N N"] | None, masked: float
) -> Float[Array, "M N D"]:
    """Softmax attention of several heads in every window, all windows at once.

    Args:
        qkv: queries, keys and values on the last axis, each head by head; M windows.
        bias: added to the logits of every window.
        mask: pairs to exclude in each of one map's m windows (m divides M), or None.
        masked: what an excluded pair's logit gets added (-inf, or the -100 of Swin).
    """
    (m, n, _), heads = qkv.shape, bias.shape[0]
    q, k, v = qkv.reshape(m, n, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    logits = jnp.einsum("mhqd,mhkd->mhqk", q * q.shape[-1] ** -0.5, k).astype(jnp.float32) + bias[None]
    if mask is not None:
        logits = logits.reshape(-1, len(mask), heads, n, n) + jnp.where(mask, masked, 0.0)[None, :, None]
        logits = logits.reshape(m, heads, n, n)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("mhqk,mhkd->mhqd", weights, v).transpose(0, 2, 1, 3).reshape(m, n, -1)
