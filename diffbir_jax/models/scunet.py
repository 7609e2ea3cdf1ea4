"""SCUNet, the stage 1 of version 2 for denoising (Zhang et al. 2022, figure 3): a UNet of halves, Swin and convolutional."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from diffbir_jax.models.windows import merge, partition, relative_index, shift_mask, window_attention
from diffbir_jax.types import Image

WINDOW = 8
HEAD_DIM = 32
MULTIPLE = 64
NORMAL = nn.initializers.normal(0.02)


class WindowAttention(nn.Module):
    """Multi-head attention in windows of 8 with a learnt relative position bias, a bare array by head, row and column."""

    shift: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        _, h, w, c = x.shape
        dense = partial(nn.Dense, dtype=self.dtype)
        table = self.param("relative_position_params", NORMAL, (c // HEAD_DIM, 2 * WINDOW - 1, 2 * WINDOW - 1))
        bias = table.reshape(len(table), -1)[:, relative_index(WINDOW)]
        mask = shift_mask(h, w, WINDOW, self.shift) if self.shift else None
        x = jnp.roll(x, (-self.shift, -self.shift), (1, 2))
        x = window_attention(dense(3 * c, name="qkv")(partition(x, WINDOW)), bias, mask, -jnp.inf)
        return jnp.roll(merge(dense(c, name="proj")(x), h, w), (self.shift, self.shift), (1, 2))


class SwinBlock(nn.Module):
    """Swin transformer layer with an MLP four times as wide."""

    shift: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        norm, dense = partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype), partial(nn.Dense, dtype=self.dtype)
        x += WindowAttention(self.shift, self.dtype, name="attn")(norm(name="norm1")(x))
        h = dense(4 * x.shape[-1], name="fc1")(norm(name="norm2")(x))
        return x + dense(x.shape[-1], name="fc2")(nn.gelu(h, approximate=False))


class SwinConvBlock(nn.Module):
    """One half of the channels through two convolutions, the other through a Swin layer, mixed by 1x1 convolutions."""

    shift: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        channels = x.shape[-1]
        mix = partial(nn.Conv, channels, (1, 1), dtype=self.dtype)
        conv = partial(nn.Conv, channels // 2, (3, 3), use_bias=False, dtype=self.dtype)
        local, distant = jnp.split(mix(name="conv1_1")(x), 2, axis=-1)
        local += conv(name="conv2")(nn.relu(conv(name="conv1")(local)))
        distant = SwinBlock(self.shift, self.dtype, name="swin")(distant)
        return x + mix(name="conv1_2")(jnp.concatenate([local, distant], axis=-1))


class SCUNet(nn.Module):
    """Denoises an image in [0, 1] of any size; sizes default to the released model's.

    Attributes:
        config: blocks of the three levels down, the body and the three levels up.
        dim: channels at full size, a multiple of 64; doubled by every level down.
    """

    config: tuple[int, ...] = (4,) * 7
    dim: int = 64
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, lq: Image) -> Image:
        _, h, w, _ = lq.shape
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        x = jnp.pad(lq, ((0, 0), (0, -h % MULTIPLE), (0, -w % MULTIPLE), (0, 0)), mode="edge")
        x = conv(self.dim, (3, 3), name="head")(x)
        skips = [x]
        for i in (1, 2, 3):
            x = self._blocks(f"down{i}", i - 1, x)
            x = conv(2 * x.shape[-1], (2, 2), 2, name=f"down{i}_resample")(x)
            skips.append(x)
        x = self._blocks("body", 3, x)
        for i in (3, 2, 1):
            x += skips.pop()
            x = nn.ConvTranspose(x.shape[-1] // 2, (2, 2), (2, 2), use_bias=False, dtype=self.dtype, name=f"up{i}_resample")(x)
            x = self._blocks(f"up{i}", 7 - i, x)
        return conv(3, (3, 3), name="tail")(x + skips.pop()).astype(jnp.float32)[:, :h, :w]

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct]:
        """Stand-in for the smallest image, for `init` under `jax.eval_shape`."""
        return (jax.ShapeDtypeStruct((1, MULTIPLE, MULTIPLE, 3), jnp.float32),)

    def _blocks(self, name: str, place: int, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        for i in range(self.config[place]):
            x = SwinConvBlock(WINDOW // 2 if i % 2 else 0, self.dtype, name=f"{name}_blocks_{i}")(x)
        return x
