"""The autoencoder one layer at a time over tiles, its maps held by the host: for images whose maps the device cannot hold.

Every GroupNorm sees the statistics of the whole map and every convolution its true neighbours, so the result is the whole
network's to rounding; no tile overlaps another and nothing is computed twice. What is compiled depends on the tile, not the image;
maps smaller than a tile are padded to a power of two.
"""

import functools
from collections import deque
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int

from diffbir_jax.errors import InputError
from diffbir_jax.models.autoencoder import AutoencoderKL
from diffbir_jax.models.host_maps import Map, Target, cut, merged, patch_of, places
from diffbir_jax.models.layers import pixel_shuffle, pixel_unshuffle
from diffbir_jax.types import Params

EPSILON = 1e-6
QUERIES = 256
Affine = tuple[Float32[Array | np.ndarray, "C"], Float32[Array | np.ndarray, "C"]]  # factor and summand of every channel


def encode_layerwise(
    net: AutoencoderKL, params: Params, image: Float32[np.ndarray, "1 H W 3"], tile: int = 256, storage: DTypeLike = np.float16
) -> Float32[np.ndarray, "1 h w c"]:
    """What `net.encode` gives, see `Walk`; the image is in [0, 1], its sides multiples of the downsampling factor."""
    walk, encoder = Walk(net, tile, storage), params["encoder"]
    x = walk.conv(encoder["conv_in"], Map(image), (np.full(3, 2, np.float32), np.full(3, -1, np.float32)), activate=False)
    for i in range(len(net.channels)):
        x = walk.level(encoder[f"down_blocks_{i}"], x, net.blocks)
    x = walk.head(encoder, walk.middle(encoder["mid_block"], x))
    latent = _pointwise(params["quant_conv"], x)[..., : net.latent_channels]
    if net.shortcut:
        for rows, pixels in _strips(net, image.shape[1], tile):
            blocks = np.asarray(pixel_unshuffle(jnp.asarray(2 * image[:, pixels] - 1), net.downsampling_factor))
            latent[:, rows] += _pointwise(params["encoder_shortcut"], blocks)
    return np.float32(net.scaling_factor) * latent


def decode_layerwise(
    net: AutoencoderKL,
    params: Params,
    latent: Float32[Array | np.ndarray, "1 h w c"],
    tile: int = 256,
    storage: DTypeLike = np.float16,
) -> Float32[np.ndarray, "1 H W 3"]:
    """What `net.decode` gives, see `Walk`."""
    walk, decoder = Walk(net, tile, storage), params["decoder"]
    z = np.asarray(latent) / np.float32(net.scaling_factor)
    x = walk.conv(decoder["conv_in"], Map(_pointwise(params["post_quant_conv"], z)))
    x = walk.middle(decoder["mid_block"], x)
    for i in range(len(net.channels)):
        x = walk.level(decoder[f"up_blocks_{i}"], x, net.blocks + 1)
    image = walk.head(decoder, x)
    if net.shortcut:
        for rows, pixels in _strips(net, image.shape[1], tile):
            blocks = _pointwise(params["decoder_shortcut"], z[:, rows])
            image[:, pixels] += np.asarray(pixel_shuffle(jnp.asarray(blocks), net.downsampling_factor))
    image += 1
    image /= 2
    return image


@dataclass(frozen=True)
class Walk:
    """How to go through the layers.

    Attributes:
        net: its sizes and dtype of computation; parameters come with each call.
        tile: side of a tile in places of any map, even.
        storage: of the maps: float16 halves the memory, at a relative error of about 1e-3; float32 loses nothing.

    Raises:
        InputError: `tile` is odd or below 8.
    """

    net: AutoencoderKL
    tile: int
    storage: DTypeLike

    def __post_init__(self) -> None:
        if self.tile < 8 or self.tile % 2:
            raise InputError(f"the autoencoder's tile is {self.tile}; give an even number, 8 or more, for example 256")

    def level(self, params: Params, x: Map, blocks: int) -> Map:
        """The ResBlocks of one resolution, then a change of resolution."""
        for j in range(blocks):
            x = self.resblock(params[f"resnets_{j}"], x)
        if "downsamplers_0" in params:
            return self.conv(params["downsamplers_0"]["conv"], x, resample="down")
        return self.conv(params["upsamplers_0"]["conv"], x, resample="up") if "upsamplers_0" in params else x

    def resblock(self, params: Params, x: Map) -> Map:
        """Two convolutions, added to x in its place."""
        h = self.conv(params["conv1"], x, self.norm(params["norm1"], x))
        return self.conv(params["conv2"], h, self.norm(params["norm2"], h), onto=x, shortcut=params.get("conv_shortcut"))

    def middle(self, params: Params, x: Map) -> Map:
        """ResBlock, attention where there is one, ResBlock."""
        x = self.resblock(params["resnets_0"], x)
        if "attentions_0" in params:
            x = self.attention(params["attentions_0"], x)
        return self.resblock(params["resnets_1"], x)

    def head(self, params: Params, x: Map) -> Float32[np.ndarray, "1 H W D"]:
        """The last norm and convolution, in float32."""
        walk = Walk(self.net, self.tile, np.float32)
        return walk.conv(params["conv_out"], x, self.norm(params["conv_norm_out"], x)).values

    def norm(self, params: Params, x: Map) -> Affine:
        """The GroupNorm of the whole map as a factor and a summand of every channel (Wu and He 2018, equation 2)."""
        means, variances = (m.reshape(self.net.groups, -1) for m in (x.mean, x.variance))
        group = means.mean(1, keepdims=True)
        variance = (variances + (means - group) ** 2).mean(1, keepdims=True)
        scale, bias = (np.asarray(params[k], np.float64).reshape(means.shape) for k in ("scale", "bias"))
        factor = scale / np.sqrt(variance + EPSILON)
        return tuple(a.reshape(-1).astype(np.float32) for a in (factor, bias - group * factor))

    def conv(
        self, params: Params, x: Map, affine: Affine | None = None, activate: bool = True, resample: str | None = None,
        onto: Map | None = None, shortcut: Params | None = None,
    ) -> Map:  # fmt: skip
        """A 3x3 convolution of silu(affine(x)), or of x resampled, added to `onto`, which it replaces where it has the channels."""
        height, width = (2 * n if resample == "up" else n // 2 if resample == "down" else n for n in x.values.shape[1:3])
        halves = 2 if resample == "down" else 1  # the tile is the input's
        tile = min(self.tile, max(8, 2 ** (halves * max(height, width) - 1).bit_length()))  # else a small map is mostly padding
        side = tile // halves
        target = Target((1, height, width, params["kernel"].shape[-1]), self.storage, onto)
        run = functools.partial(_convolved, activate=activate, resample=resample, dtype=self.net.dtype)
        running = deque()
        for place in places(height, width, side):
            patch, inside = patch_of(x.values, place, tile, resample)
            residual = None if onto is None else cut(onto.values, *place, side, side)[0]
            units = np.array([x.unit, target.onto_unit], np.float32)
            real = np.minimum([height - place[0], width - place[1]], side).astype(np.int32)
            running.append((place, *run(params, affine, patch, inside, real, residual, shortcut, units)))
            if len(running) > 1:  # the host copies while the device computes
                target.put(*running.popleft())
        target.put(*running.popleft())
        return target.map()

    def attention(self, params: Params, x: Map) -> Map:
        """The middle's attention: all keys and values on the device, padded to one of few lengths; queries a chunk at a time."""
        affine, dtype = self.norm(params["group_norm"], x), self.net.dtype
        tokens = np.float32(x.unit) * x.values.reshape(-1, x.values.shape[-1]).astype(np.float32)
        total, out = len(tokens), np.empty_like(tokens)
        chunks = [(i, cut(tokens[None, None], 0, i, 1, QUERIES)[0][0, 0]) for i in range(0, total, QUERIES)]
        keys = np.zeros((2, _bucket(total), tokens.shape[1]), jnp.dtype(dtype))
        for i, part in chunks:
            keys[:, i : i + QUERIES] = _keys(params, affine, part, dtype)
        held, moments = jax.device_put(keys), []
        for i, part in chunks:
            done, *found = _attended(params, affine, part, held, np.array([total, total - i], np.int32), dtype)
            out[i : i + QUERIES] = np.asarray(done)[: total - i]
            moments.append([np.asarray(m, np.float64) for m in found])
        return Map(out.reshape(x.values.shape), 1.0, *merged(moments))


@functools.partial(jax.jit, static_argnames=("activate", "resample", "dtype"))
def _convolved(
    params: Params, affine: Affine | None, patch: Array, inside: Int[Array, "4"], real: Int[Array, "2"], residual: Array | None,
    shortcut: Params | None, units: Float[Array, "2"], *, activate: bool, resample: str | None, dtype: DTypeLike,
) -> tuple[Array, ...]:  # fmt: skip
    """One tile of `Walk.conv`, the peak and moments of its `real` rows and columns; outside the map the activation is zero."""
    x = patch.astype(jnp.float32) * units[0]
    if affine is not None:
        x = (x * affine[0][None, None, None] + affine[1][None, None, None]).astype(dtype)
        x = jnp.where(_mask(x.shape, inside[:2], inside[2:]), nn.silu(x) if activate else x, 0)
    if resample == "up":
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)[:, 1:-1, 1:-1]
    x, kernel = x.astype(dtype), params["kernel"].astype(dtype)
    if resample == "down":
        x = _plain(x, kernel, (2, 2))
    else:
        x = jax.lax.platform_dependent(x, kernel, cpu=_by_columns, default=_plain)
    x += params["bias"].astype(dtype)[None, None, None]
    if residual is not None:
        residual = (residual.astype(jnp.float32) * units[1]).astype(dtype)
        x += residual if shortcut is None else _dense(shortcut, residual, dtype)
    mask = _mask(x.shape, jnp.zeros_like(real), real)
    return x.astype(jnp.float32), jnp.max(jnp.where(mask, jnp.abs(x), 0)), *_moments(x, mask)


def _plain(x: Float[Array, "1 H W C"], kernel: Float[Array, "3 3 C D"], strides: tuple[int, int] = (1, 1)) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, strides, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _by_columns(x: Float[Array, "1 H W C"], kernel: Float[Array, "3 3 C D"]) -> Array:
    """The convolution as one matrix product of three columns with the kernel's three rows at once: on a CPU, from 32 channels on,
    a third of the time."""
    c, d = kernel.shape[2:]
    if max(c, d) < 32:
        return _plain(x, kernel)
    _, h, w, _ = x.shape
    columns = jax.lax.optimization_barrier(jnp.concatenate([x[0, :, j : w - 2 + j] for j in range(3)], axis=-1))
    rows = jax.lax.optimization_barrier(columns.reshape(-1, 3 * c) @ kernel.transpose(1, 2, 0, 3).reshape(3 * c, 3 * d))
    rows = rows.reshape(h, w - 2, 3, d)
    return (rows[:-2, :, 0] + rows[1:-1, :, 1] + rows[2:, :, 2])[None]


@functools.partial(jax.jit, static_argnames="dtype")
def _keys(params: Params, affine: Affine, tokens: Float[Array, "N C"], dtype: DTypeLike) -> Float[Array, "2 N C"]:
    h = _normed(affine, tokens, dtype)
    return jnp.stack([_dense(params["key"], h, dtype), _dense(params["value"], h, dtype)])


@functools.partial(jax.jit, static_argnames="dtype")
def _attended(
    params: Params, affine: Affine, tokens: Float[Array, "N C"], keys: Float[Array, "2 S C"], real: Int[Array, "2"],
    dtype: DTypeLike,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """A chunk of tokens plus its attention to the first real[0] keys, and the moments of its first real[1] tokens."""
    q = _dense(params["query"], _normed(affine, tokens, dtype), dtype)
    logits = jnp.einsum("nc,sc->ns", q, keys[0], preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    weights = nn.softmax(jnp.where(jnp.arange(keys.shape[1])[None] < real[0], logits, -jnp.inf)).astype(dtype)
    out = tokens.astype(dtype) + _dense(params["proj_attn"], weights @ keys[1], dtype)
    return out.astype(tokens.dtype), *_moments(out[None, None], (jnp.arange(len(out)) < real[1])[None, None, :, None])


def _normed(affine: Affine, tokens: Array, dtype: DTypeLike) -> Array:
    return (tokens.astype(jnp.float32) * affine[0][None] + affine[1][None]).astype(dtype)


def _dense(params: Params, x: Float[Array, "*B C"], dtype: DTypeLike) -> Float[Array, "*B D"]:
    """A dense layer, or a 1x1 convolution."""
    kernel = params["kernel"].reshape(params["kernel"].shape[-2:]).astype(dtype)
    return x @ kernel + jnp.expand_dims(params["bias"].astype(dtype), tuple(range(x.ndim - 1)))


def _moments(x: Float[Array, "1 H W C"], mask: Array) -> tuple[Float[Array, ""], Float[Array, "C"], Float[Array, "C"]]:
    """Of every channel: how many places count, their mean, the sum of squared differences from it."""
    x = x.astype(jnp.float32)
    n = mask.sum().astype(jnp.float32)
    mean = jnp.where(mask, x, 0).sum((0, 1, 2)) / n
    return n, mean, jnp.where(mask, (x - mean[None, None, None]) ** 2, 0).sum((0, 1, 2))


def _mask(shape: tuple[int, ...], low: Int[Array, "2"], high: Int[Array, "2"]) -> Array:
    """Where a map's places lie in [low, high) in both directions."""
    y, x = jnp.arange(shape[1]), jnp.arange(shape[2])
    rows, columns = (y >= low[0]) & (y < high[0]), (x >= low[1]) & (x < high[1])
    return rows[None, :, None, None] & columns[None, None, :, None]


def _pointwise(params: Params, x: Float32[np.ndarray, "1 H W C"]) -> Float32[np.ndarray, "1 H W D"]:
    """A dense layer or 1x1 convolution on the host."""
    kernel = np.asarray(params["kernel"], np.float32)
    return x @ kernel.reshape(kernel.shape[-2:]) + np.asarray(params["bias"], np.float32)


def _strips(net: AutoencoderKL, height: int, tile: int) -> list[tuple[slice, slice]]:
    """Rows of the latent and the pixels that they cover, about a tile of pixels each."""
    factor = net.downsampling_factor
    step = max(1, tile // factor)
    return [(slice(i, i + step), slice(factor * i, factor * (i + step))) for i in range(0, height // factor, step)]


def _bucket(tokens: int) -> int:
    """The next of eight lengths an octave."""
    unit = max(QUERIES, 2 ** (tokens.bit_length() - 4))
    return -(-tokens // unit) * unit
