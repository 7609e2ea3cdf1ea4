"""RRDBNet, the stage 1 of version 2 for general images (BSRNet; ESRGAN, section 3.1): enlarges an image and cleans it."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from diffbir_jax.errors import InputError
from diffbir_jax.models.layers import Upsample
from diffbir_jax.types import Image


class DenseBlock(nn.Module):
    """Five 3x3 convolutions, each on everything before it, times 0.2, plus the input."""

    growth: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        conv = partial(nn.Conv, kernel_size=(3, 3), dtype=self.dtype)
        h = x
        for i in range(1, 5):
            h = jnp.concatenate([h, nn.leaky_relu(conv(self.growth, name=f"conv{i}")(h), 0.2)], axis=-1)
        return x + 0.2 * conv(x.shape[-1], name="conv5")(h)


class ResidualDenseBlock(nn.Module):
    """Three dense blocks, times 0.2, plus the input (ESRGAN's RRDB)."""

    growth: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        h = x
        for i in range(3):
            h = DenseBlock(self.growth, self.dtype, name=f"dense_{i}")(h)
        return x + 0.2 * h


class RRDBNet(nn.Module):
    """Enlarges an image in [0, 1] by `scale` (a power of two); sizes default to the released BSRNet's.

    Raises:
        InputError: `scale` is not a power of two.
    """

    features: int = 64
    blocks: int = 23
    growth: int = 32
    scale: int = 4
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, lq: Image) -> Float[Array, "B {self.scale}*H {self.scale}*W 3"]:
        if self.scale < 1 or self.scale & (self.scale - 1):
            raise InputError(f"scale is {self.scale}; give a power of two, for example 4")
        conv = partial(nn.Conv, kernel_size=(3, 3), dtype=self.dtype)
        x = shallow = conv(self.features, name="conv_first")(lq)
        for i in range(self.blocks):
            x = ResidualDenseBlock(self.growth, self.dtype, name=f"blocks_{i}")(x)
        x = shallow + conv(self.features, name="conv_body")(x)
        for i in range(self.scale.bit_length() - 1):
            x = nn.leaky_relu(Upsample(dtype=self.dtype, name=f"upsample_{i}")(x), 0.2)
        x = nn.leaky_relu(conv(self.features, name="conv_hr")(x), 0.2)
        return conv(3, name="conv_last")(x).astype(jnp.float32)

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct]:
        """Stand-in for the smallest image, for `init` under `jax.eval_shape`."""
        return (jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32),)
