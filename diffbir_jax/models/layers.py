"""Layers that the UNet, its control branches and the autoencoder share. Maps are NHWC."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Num

from diffbir_jax.models.conv import Affine, Conv3x3, narrowed
from diffbir_jax.types import Image

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


class GroupNormAffine(nn.Module):
    """A GroupNorm as a factor and a summand of every channel (Wu and He 2018, equations 1 to 3), for what follows to apply.

    The parameters are those of `nn.GroupNorm`.
    """

    groups: int
    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Affine:
        b, height, width, c = x.shape
        scale, bias = (self.param(n, init, (c,)) for n, init in (("scale", nn.initializers.ones_init()), ("bias", ZERO)))
        x = x.astype(jnp.float32)
        total = height * width * c // self.groups
        mean, square = (a.sum((1, 2)).reshape(b, self.groups, -1).sum(-1, keepdims=True) / total for a in (x, x * x))
        factor = scale.reshape(1, self.groups, -1) * jax.lax.rsqrt(jnp.maximum(square - mean * mean, 0) + self.epsilon)
        summand = bias.reshape(1, self.groups, -1) - mean * factor
        return factor.reshape(b, c), summand.reshape(b, c)


class Conv1x1(nn.Module):
    """A 1x1 convolution with the parameters of `nn.Conv`, as a matrix product: as a convolution a CPU first copies its input."""

    channels: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W _"], last: Float[Array, "B H W {self.channels}"] | None = None) -> Array:
        """[B, H, W, channels]; or x with that in its first channels, see `narrowed`, where `last` is what else is made of x."""
        kernel = self.param("kernel", CONV, (1, 1, x.shape[-1], self.channels)).astype(self.dtype)
        bias = self.param("bias", ZERO, (self.channels,)).astype(self.dtype)
        if last is not None and self.channels < x.shape[-1]:
            return narrowed(x.astype(self.dtype), last, kernel[0, 0], bias)
        return x.astype(self.dtype) @ kernel[0, 0] + bias[None, None, None]


class ResBlock(nn.Module):
    """Two 3x3 convolutions, the timestep (if there is one) added between (DDPM, appendix B).

    With `zero_init` the second convolution starts at zero, so the block starts as the identity.
    """

    channels: int
    groups: int = 32
    epsilon: float = 1e-5
    zero_init: bool = False
    conv_implementation: str = "xla"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W _"], temb: Float[Array, "B E"] | None = None
    ) -> Float[Array, "B H W {self.channels}"]:
        conv = partial(Conv3x3, self.channels, self.conv_implementation, dtype=self.dtype)
        norm = partial(GroupNormAffine, self.groups, self.epsilon)
        h = conv(name="conv1")(x, norm(name="norm1")(x))
        if temb is not None:
            h += nn.Dense(self.channels, dtype=self.dtype, name="time_emb_proj")(nn.silu(temb))[:, None, None]
        affine = norm(name="norm2")(h)
        if x.shape[-1] != self.channels:
            x = Conv1x1(self.channels, self.dtype, name="conv_shortcut")(x, h if self.conv_implementation == "cpu" else None)
        return conv(kernel_init=ZERO if self.zero_init else CONV, name="conv2")(h, affine, x)


class Downsample(nn.Module):
    """3x3 convolution of stride 2; `padding` is (before, after) along both axes."""

    padding: tuple[int, int] = (1, 1)
    conv_implementation: str = "xla"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        how = {"stride": 2, "padding": self.padding, "dtype": self.dtype}
        return Conv3x3(x.shape[-1], self.conv_implementation, name="conv", **how)(x)


class Upsample(nn.Module):
    """Nearest neighbour x2, then a 3x3 convolution."""

    conv_implementation: str = "xla"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W C"]:
        return Conv3x3(x.shape[-1], self.conv_implementation, 2, dtype=self.dtype, name="conv")(x)


class Untouched(nn.Module):
    """No restoration module: the ablation's stage 1, which leaves an image as it is."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, lq: Image) -> Image:
        return lq.astype(jnp.float32)


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
