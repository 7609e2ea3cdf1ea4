"""The autoencoder of latent diffusion (Rombach et al. 2022, section 3.1): images to latents and back."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from diffbir_jax.models.attention import AttentionBlock
from diffbir_jax.models.conv import Conv3x3
from diffbir_jax.models.layers import (
    CONV,
    ZERO,
    Downsample,
    GroupNormAffine,
    ResBlock,
    Upsample,
    pixel_shuffle,
    pixel_unshuffle,
)
from diffbir_jax.types import Image, Latent, Params


class Level(nn.Module):
    """The ResBlocks of one resolution, then a change of resolution."""

    channels: int
    blocks: int
    groups: int
    resample: str | None
    """"down", "up" or None."""
    conv_implementation: str = "xla"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W _"]) -> Float[Array, "B h w {self.channels}"]:
        for i in range(self.blocks):
            options = {"conv_implementation": self.conv_implementation, "dtype": self.dtype, "name": f"resnets_{i}"}
            x = ResBlock(self.channels, self.groups, 1e-6, **options)(x)
        if self.resample == "down":
            x = Downsample((0, 1), self.conv_implementation, self.dtype, name="downsamplers_0")(x)
        if self.resample == "up":
            x = Upsample(self.conv_implementation, self.dtype, name="upsamplers_0")(x)
        return x


class MidBlock(nn.Module):
    """ResBlock, attention if wanted, ResBlock."""

    groups: int
    attention: bool
    attention_implementation: str = "chunked"
    conv_implementation: str = "xla"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        options = {"conv_implementation": self.conv_implementation, "dtype": self.dtype}
        resblock = partial(ResBlock, x.shape[-1], self.groups, 1e-6, **options)
        x = resblock(name="resnets_0")(x)
        if self.attention:
            x = AttentionBlock(self.groups, self.attention_implementation, self.dtype, name="attentions_0")(x)
        return resblock(name="resnets_1")(x)


class Encoder(nn.Module):
    """Image to twice the latent's channels; every level but the last halves the size."""

    channels: tuple[int, ...]
    blocks: int
    out_channels: int
    groups: int
    mid_attention: bool
    zero_init: bool = False
    attention_implementation: str = "chunked"
    conv_implementation: str = "xla"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W _"]) -> Float[Array, "B h w {self.out_channels}"]:
        conv, how = partial(nn.Conv, kernel_size=(3, 3), dtype=self.dtype), (self.conv_implementation, self.dtype)
        x = conv(self.channels[0], name="conv_in")(x)
        for i, c in enumerate(self.channels):
            resample = "down" if i + 1 < len(self.channels) else None
            x = Level(c, self.blocks, self.groups, resample, *how, name=f"down_blocks_{i}")(x)
        x = MidBlock(self.groups, self.mid_attention, self.attention_implementation, *how, name="mid_block")(x)
        affine = GroupNormAffine(self.groups, 1e-6, name="conv_norm_out")(x)
        start = ZERO if self.zero_init else CONV
        return Conv3x3(self.out_channels, self.conv_implementation, kernel_init=start, dtype=self.dtype, name="conv_out")(x, affine)


class Decoder(nn.Module):
    """Latent to image; every level but the last doubles the size."""

    channels: tuple[int, ...]
    blocks: int
    groups: int
    mid_attention: bool
    zero_init: bool = False
    attention_implementation: str = "chunked"
    conv_implementation: str = "xla"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, z: Float[Array, "B h w _"]) -> Float[Array, "B H W 3"]:
        conv, how = partial(nn.Conv, kernel_size=(3, 3), dtype=self.dtype), (self.conv_implementation, self.dtype)
        x = conv(self.channels[-1], name="conv_in")(z)
        x = MidBlock(self.groups, self.mid_attention, self.attention_implementation, *how, name="mid_block")(x)
        for i, c in enumerate(reversed(self.channels)):
            resample = "up" if i + 1 < len(self.channels) else None
            x = Level(c, self.blocks, self.groups, resample, *how, name=f"up_blocks_{i}")(x)
        affine = GroupNormAffine(self.groups, 1e-6, name="conv_norm_out")(x)
        start = ZERO if self.zero_init else CONV
        return Conv3x3(3, self.conv_implementation, kernel_init=start, dtype=self.dtype, name="conv_out")(x, affine)


class AutoencoderKL(nn.Module):
    """Encoder and decoder of Stable Diffusion 2.1 at the default sizes.

    `net.apply({"params": params}, image, method="encode")`, likewise "moments" and "decode". Images are [0, 1], their height and
    width multiples of `net.downsampling_factor`; latents are multiplied by `scaling_factor`.

    Attributes:
        channels: of every level, finest first.
        blocks: ResBlocks a level of the encoder; the decoder has one more.
        latent_channels: of the latent.
        groups: of the GroupNorms; divides every number of channels.
        mid_attention: whether the middles attend.
        scaling_factor: brings latents to about unit variance.
        shortcut: add linear maps between blocks of pixels and the latent on both ways, so that the networks learn what these miss
            (the residual autoencoding of DC-AE, Chen et al. 2025); `fit_shortcut` starts them. Not in released models.
        attention_implementation: see `attention`.
        conv_implementation: see `Conv3x3`; of the ResBlocks and upsampling.
        dtype: of the computation; parameters are float32, inputs and outputs too.
    """

    channels: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    latent_channels: int = 4
    groups: int = 32
    mid_attention: bool = True
    scaling_factor: float = 0.18215
    shortcut: bool = False
    attention_implementation: str = "chunked"
    conv_implementation: str = "xla"
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        common = {
            "groups": self.groups, "mid_attention": self.mid_attention, "zero_init": self.shortcut,
            "attention_implementation": self.attention_implementation, "conv_implementation": self.conv_implementation,
            "dtype": self.dtype,
        }  # fmt: skip
        self.encoder = Encoder(self.channels, self.blocks, 2 * self.latent_channels, **common)
        self.decoder = Decoder(self.channels, self.blocks + 1, **common)
        self.quant_conv = nn.Conv(2 * self.latent_channels, (1, 1), dtype=self.dtype)
        self.post_quant_conv = nn.Conv(self.latent_channels, (1, 1), dtype=self.dtype)
        if self.shortcut:
            self.encoder_shortcut = nn.Dense(self.latent_channels, dtype=self.dtype)
            self.decoder_shortcut = nn.Dense(3 * self.downsampling_factor**2, dtype=self.dtype)

    @property
    def downsampling_factor(self) -> int:
        """Image pixels along one side of a latent pixel."""
        return 2 ** (len(self.channels) - 1)

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct]:
        """The smallest arguments of `init`, for `jax.eval_shape`."""
        side = 2 * self.downsampling_factor
        return (jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),)

    def __call__(self, image: Image) -> Image:
        """The image through the latent's mode and back."""
        return self.decode(self.encode(image))

    def moments(self, image: Image) -> tuple[Latent, Latent]:
        """Mean and log variance of the posterior, not scaled; the log variance is clipped to [-30, 20]."""
        h = self.quant_conv(self.encoder(2 * image - 1)).astype(jnp.float32)
        mean, logvar = jnp.split(h, 2, axis=-1)
        if self.shortcut:
            mean += self.encoder_shortcut(pixel_unshuffle(2 * image - 1, self.downsampling_factor))
        return mean, jnp.clip(logvar, -30, 20)

    def encode(self, image: Image) -> Latent:
        """The posterior's mode times the scaling factor."""
        return self.scaling_factor * self.moments(image)[0]

    def decode(self, latent: Latent) -> Image:
        """The image of a scaled latent, about [0, 1] but not clipped."""
        z = latent / self.scaling_factor
        image = self.decoder(self.post_quant_conv(z))
        if self.shortcut:
            image += pixel_shuffle(self.decoder_shortcut(z), self.downsampling_factor)
        return (image.astype(jnp.float32) + 1) / 2


def fit_shortcut(net: AutoencoderKL, params: Params, images: Image) -> dict[str, Any]:
    """`params` with the shortcut set to the images' principal components: alone, the best linear autoencoder of pixel blocks.

    Components are divided by the square root of their deviation, so that fine detail, which varies little, is not lost among the
    coarse. The posterior starts at a deviation of 0.05.
    """
    c = net.latent_channels
    blocks = np.asarray(pixel_unshuffle(2 * images - 1, net.downsampling_factor)).reshape(-1, 3 * net.downsampling_factor**2)
    mean = blocks.mean(0)
    variances, vectors = np.linalg.eigh(np.cov((blocks - mean).T))
    vectors, roots = vectors[:, ::-1][:, :c], variances[::-1][:c] ** 0.25
    into = vectors / roots
    shortcuts = {
        "encoder_shortcut": {"kernel": into, "bias": -mean @ into},
        "decoder_shortcut": {"kernel": (vectors * roots).T, "bias": mean},
    }
    quant = params["quant_conv"] | {"bias": jnp.repeat(jnp.array([0.0, np.log(0.05**2)]), c)}
    return {**params, "quant_conv": quant} | jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), shortcuts)


def balance(net: AutoencoderKL, params: Params, images: Image) -> dict[str, Any]:
    """The same autoencoder with latent channels of mean 0 and, on `images`, variances in proportion to their share in the image.

    The share is the deviation that a channel gives the image. Were all variances equal, noise on the few channels that carry
    brightness and colour would be far more visible than on the others; were deviations as the shares, the fine ones would drown in
    noise. The mean variance is 1. Only linear layers change; `net` has a shortcut, which takes up the means.
    """
    mean, _ = net.apply({"params": params}, images, method="moments")
    middle, deviation = mean.mean((0, 1, 2)), mean.std((0, 1, 2))
    quant, post = params["quant_conv"], params["post_quant_conv"]
    into, out = params["encoder_shortcut"], params["decoder_shortcut"]
    share = deviation * jnp.linalg.norm(out["kernel"], axis=1)
    factor = jnp.sqrt(share / share.mean()) / deviation
    scale = jnp.concatenate([factor, jnp.ones_like(factor)])
    shift = jnp.concatenate([jnp.zeros_like(factor), 2 * jnp.log(factor)])
    changed = {
        "quant_conv": {"kernel": quant["kernel"] * scale[None, None, None], "bias": quant["bias"] * scale + shift},
        "encoder_shortcut": {"kernel": into["kernel"] * factor[None], "bias": (into["bias"] - middle) * factor},
        "post_quant_conv": {
            "kernel": post["kernel"] / factor[None, None, :, None],
            "bias": post["bias"] + middle @ post["kernel"][0, 0],
        },
        "decoder_shortcut": {"kernel": out["kernel"] / factor[:, None], "bias": out["bias"] + middle @ out["kernel"]},
    }
    return {**params, **changed}
