"""Layers that the UNet, its control branches and the autoencoder share. Maps are NHWC."""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Num

from diffbir_jax.models.conv import Conv3x3

ZERO = nn.initializers.zeros_init()
CONV = nn.initializers.lecun_normal()


def timestep_embedding(t: Num[Array, "B"], width: int, max_period: float = 10000.0) -> Float[Array, "B {width}"]:
    """Sinusoids of the step number, cosines then sines (DDPM, section 3.3 and appendix B); width is even."""
    frequencies = jnp.exp(-jnp.log(max_period) * jnp.arange(width // 2) / (width // 2))
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimestepEmbedding(nn.Module):
    """Two dense layers on the sinusoids of the step number."""

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, t: Num[Array, "B"]) -> Float[Array, "B E"]:
        dense = partial(nn.Dense, 4 * self.width, dtype=self.dtype)
        return dense(name="linear_2")(nn.silu(dense(name="linear_1")(timestep_embedding(t, self.width))))


class ResBlock(nn.Module):
    """Two 3x3 convolutions, the timestep (if there is one) added between (DDPM, appendix B).

    With `zero_init` the second convolution starts at zero, so the block starts as the identity.
    """

    channels: int
    groups: int = 32
    epsilon: float = 1e-5
    zero_init: bool = False
    conv_implementation: str = "auto"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W _"], temb: Float[Array, "B E"] | None = None
    ) -> Float[Array, "B H W {self.channels}"]:
        conv = partial(Conv3x3, self.channels, self.conv_implementation, dtype=self.dtype)
        norm = partial(nn.GroupNorm, self.groups, epsilon=self.epsilon, dtype=self.dtype)
        h = conv(name="conv1")(nn.silu(norm(name="norm1")(x)))
        if temb is not None:
            h += nn.Dense(self.channels, dtype=self.dtype, name="time_emb_proj")(nn.silu(temb))[:, None, None]
        h = nn.silu(norm(name="norm2")(h))
        h = conv(kernel_init=ZERO if self.zero_init else CONV, name="conv2")(h)
        if x.shape[-1] == self.channels:
            return h + x
        return h + nn.Conv(self.channels, (1, 1), dtype=self.dtype, name="conv_shortcut")(x)


class Downsample(nn.Module):
    """3x3 convolution of stride 2; `padding` is (before, after) along both axes."""

    padding: tuple[int, int] = (1, 1)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        return nn.Conv(x.shape[-1], (3, 3), 2, padding=[self.padding] * 2, dtype=self.dtype, name="conv")(x)


class Upsample(nn.Module):
    """Nearest neighbour x2, then a 3x3 convolution."""

    conv_implementation: str = "auto"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W C"]:
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        return Conv3x3(x.shape[-1], self.conv_implementation, dtype=self.dtype, name="conv")(x)


def pixel_unshuffle(x: Float[Array, "B H W C"], factor: int) -> Float[Array, "B h w D"]:
    """Every factor x factor block of pixels as channels: first the input's channels, then rows, then columns."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // factor, factor, w // factor, factor, c)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(b, h // factor, w // factor, c * factor * factor)


def pixel_shuffle(x: Float[Array, "B h w D"], factor: int) -> Float[Array, "B H W C"]:
    """The inverse of `pixel_unshuffle`."""
    b, h, w, d = x.shape
    x = x.reshape(b, h, w, d // factor**2, factor, factor)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(b, h * factor, w * factor, d // factor**2)
