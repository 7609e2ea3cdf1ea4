"""SwinIR as DiffBIR's stage 1 uses it (paper, section 3.1): degradation removal on a map of unshuffled pixels."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from diffbir_jax.errors import InputError
from diffbir_jax.models.conv import Conv3x3
from diffbir_jax.models.layers import CONV, ZERO, Upsample, pixel_shuffle, pixel_unshuffle
from diffbir_jax.models.windows import merge, partition, relative_index, shift_mask, window_attention
from diffbir_jax.types import Image

MEAN = np.array([[[[0.4488, 0.4371, 0.4040]]]], np.float32)
RESIDUAL_SCALE = 0.1
NORMAL = nn.initializers.normal(0.02)  # the original's truncated normal cuts at 100 standard deviations


class WindowAttention(nn.Module):
    """Multi-head attention in windows with a learnt relative position bias (Swin Transformer, equation 4)."""

    heads: int
    window: int
    shift: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        _, h, w, c = x.shape
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=NORMAL)
        table = self.param("relative_position_bias_table", NORMAL, ((2 * self.window - 1) ** 2, self.heads))
        bias = table[relative_index(self.window)].transpose(2, 0, 1)
        mask = shift_mask(h, w, self.window, self.shift) if self.shift else None
        x = jnp.roll(x, (-self.shift, -self.shift), (1, 2))
        x = window_attention(dense(3 * c, name="qkv")(partition(x, self.window)), bias, mask, -100.0)
        return jnp.roll(merge(dense(c, name="proj")(x), h, w), (self.shift, self.shift), (1, 2))


class SwinBlock(nn.Module):
    """Swin transformer layer: attention, then an MLP, each after a LayerNorm and with a residual."""

    heads: int
    window: int
    shift: int
    mlp_ratio: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        norm = partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype)
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=NORMAL)
        x += WindowAttention(self.heads, self.window, self.shift, self.dtype, name="attn")(norm(name="norm1")(x))
        h = dense(self.mlp_ratio * x.shape[-1], name="fc1")(norm(name="norm2")(x))
        return x + dense(x.shape[-1], name="fc2")(nn.gelu(h, approximate=False))


class ResidualGroup(nn.Module):
    """Residual Swin transformer block: layers with and without shift in turn, a 3x3 convolution, a residual."""

    depth: int
    heads: int
    window: int
    mlp_ratio: int
    conv_implementation: str = "xla"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        h = x
        for i in range(self.depth):
            shift = self.window // 2 if i % 2 else 0
            h = SwinBlock(self.heads, self.window, shift, self.mlp_ratio, self.dtype, name=f"blocks_{i}")(h)
        return x + Conv3x3(x.shape[-1], self.conv_implementation, dtype=self.dtype, name="conv")(h)


class SwinIR(nn.Module):
    """Removes the degradation of an image in [0, 1]; sizes default to the released models'.

    Height and width are multiples of `unshuffle * window` (the caller pads); `unshuffle` is a power of two, 2 or more.
    `upsampler` is the original's "nearest+conv" (`features` wide), or its "pixelshuffledirect", one convolution: far cheaper.
    With `residual` the network predicts what to add to the input and starts as the identity (the embedded model).
    `conv_implementation`: see `Conv3x3`; of the 3x3 convolutions between maps.

    Raises:
        InputError: a size that does not fit.
    """

    embed_dim: int = 180
    depths: tuple[int, ...] = (6,) * 8
    heads: tuple[int, ...] = (6,) * 8
    window: int = 8
    mlp_ratio: int = 2
    unshuffle: int = 8
    features: int = 64
    upsampler: str = "nearest+conv"
    residual: bool = False
    conv_implementation: str = "xla"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, lq: Image) -> Image:
        self._check(lq)
        conv = partial(Conv3x3, implementation=self.conv_implementation, dtype=self.dtype)
        norm, how = partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype), (self.conv_implementation, self.dtype)
        shallow = conv(self.embed_dim, name="conv_first")(pixel_unshuffle(lq - MEAN, self.unshuffle))
        x = norm(name="patch_norm")(shallow)
        for i, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
            x = ResidualGroup(depth, heads, self.window, self.mlp_ratio, *how, name=f"layers_{i}")(x)
        x = shallow + conv(self.embed_dim, name="conv_after_body")(norm(name="norm")(x))
        start = ZERO if self.residual else CONV
        if self.upsampler == "pixelshuffledirect":
            x = pixel_shuffle(conv(3 * self.unshuffle**2, kernel_init=start, name="upsample")(x), self.unshuffle)
        else:
            x = nn.leaky_relu(conv(self.features, name="conv_before_upsample")(x), 0.01)
            for i in range(self.unshuffle.bit_length() - 1):
                x = nn.leaky_relu(Upsample(*how, name=f"upsample_{i}")(x), 0.2)
            x = nn.leaky_relu(conv(self.features, name="conv_hr")(x), 0.2)
            x = conv(3, kernel_init=start, name="conv_last")(x)
        return RESIDUAL_SCALE * x.astype(jnp.float32) + lq if self.residual else x.astype(jnp.float32) + MEAN

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct]:
        """Stand-in for the smallest image, for `init` under `jax.eval_shape`."""
        side = self.unshuffle * self.window
        return (jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),)

    def _check(self, lq: Image) -> None:
        if self.unshuffle < 2 or self.unshuffle & (self.unshuffle - 1):
            raise InputError(f"unshuffle is {self.unshuffle}; give a power of two, 2 or more, for example 8")
        if self.upsampler not in ("nearest+conv", "pixelshuffledirect"):
            raise InputError(f"upsampler is {self.upsampler!r}; give nearest+conv or pixelshuffledirect")
        multiple, (_, h, w, _) = self.unshuffle * self.window, lq.shape
        if h % multiple or w % multiple:
            raise InputError(f"the image is {h}x{w}; pad its height and width to multiples of {multiple}")
