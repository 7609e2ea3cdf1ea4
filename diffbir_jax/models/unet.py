"""The UNet of latent diffusion (Rombach et al. 2022), and the encoder half that its control branches copy."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Num

from diffbir_jax.models.attention import Transformer2D
from diffbir_jax.models.layers import ZERO, Downsample, ResBlock, TimestepEmbedding, Upsample
from diffbir_jax.types import Context

Map = Float[Array, "B H W C"]


class Block(nn.Module):
    """What the levels of the UNet have in common: ResBlocks, each followed by a transformer if `attention`."""

    channels: int
    attention: bool
    head_dim: int
    groups: int
    attention_implementation: str = "chunked"
    conv_implementation: str = "xla"
    dtype: DTypeLike = jnp.float32

    def resblock(self, i: int) -> ResBlock:
        options = {"zero_init": True, "conv_implementation": self.conv_implementation, "dtype": self.dtype}
        return ResBlock(self.channels, self.groups, **options, name=f"resnets_{i}")

    def stage(self, i: int, x: Map, temb: Float[Array, "B E"], context: Context | None) -> Float[Array, "B H W {self.channels}"]:
        """The i-th ResBlock and transformer."""
        x = self.resblock(i)(x, temb)
        if not self.attention:
            return x
        options = {"zero_init": True, "attention_implementation": self.attention_implementation, "dtype": self.dtype}
        return Transformer2D(self.head_dim, self.groups, **options, name=f"attentions_{i}")(x, context)


class DownBlock(Block):
    """One level on the way down; returns the output and every stage's map, which are skip connections."""

    blocks: int = 2
    resample: bool = True

    @nn.compact
    def __call__(self, x: Map, temb: Float[Array, "B E"], context: Context | None) -> tuple[Array, tuple[Array, ...]]:
        skips = ()
        for i in range(self.blocks):
            x = self.stage(i, x, temb, context)
            skips += (x,)
        if self.resample:
            x = Downsample(dtype=self.dtype, name="downsamplers_0")(x)
            skips += (x,)
        return x, skips


class UpBlock(Block):
    """One level on the way up; every stage takes one skip connection. It may be called a few stages at a time, from the `first`."""

    stages: int = 3
    resample: bool = True

    @nn.compact
    def __call__(
        self, x: Map, skips: tuple[Array, ...], temb: Float[Array, "B E"], context: Context | None, first: int = 0
    ) -> Array:
        for i, skip in enumerate(skips, first):
            x = self.stage(i, jnp.concatenate([x, skip], axis=-1), temb, context)
        done = first + len(skips) == self.stages
        return Upsample(self.conv_implementation, self.dtype, name="upsamplers_0")(x) if self.resample and done else x


class MidBlock(Block):
    """ResBlock, transformer if `attention`, ResBlock."""

    @nn.compact
    def __call__(self, x: Map, temb: Float[Array, "B E"], context: Context | None) -> Map:
        x = self.stage(0, x, temb, context)
        return self.resblock(1)(x, temb)


class UNetEncoder(nn.Module):
    """Sizes and the encoder of a UNet, to be built on: the UNet and its control branches.

    Attributes:
        channels: of every level, finest first.
        blocks: ResBlocks a level on the way down; one more on the way up.
        attention: whether the level has transformers; the middle has one if any level does.
        head_dim: size of an attention head; divides `channels` where there is attention.
        context_dim: width of the text's states; None: no cross-attention, and `context` is None.
        in_channels: of the latent.
        groups: of the GroupNorms; divides every number of channels.
        attention_implementation: see `attention`.
        conv_implementation: see `Conv3x3`; of the ResBlocks and upsampling.
        dtype: of the computation; parameters are float32.
    """

    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: int = 2
    attention: tuple[bool, ...] = (True, True, True, False)
    head_dim: int = 64
    context_dim: int | None = 1024
    in_channels: int = 4
    groups: int = 32
    attention_implementation: str = "chunked"
    conv_implementation: str = "xla"
    dtype: DTypeLike = jnp.float32

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct | None, ...]:
        """The smallest z_t, t and context of `init`, for `jax.eval_shape`."""
        side = 2 ** len(self.channels)
        z_t = jax.ShapeDtypeStruct((1, side, side, self.in_channels), jnp.float32)
        context = self.context_dim and jax.ShapeDtypeStruct((1, 77, self.context_dim), jnp.float32)
        return z_t, jax.ShapeDtypeStruct((1,), jnp.int32), context

    def block(self, cls: type[Block], level: int, name: str, **fields: bool | int) -> Block:
        """The block of a level, or of the middle."""
        fields = {"attention": self.attention[level], "head_dim": self.head_dim, "groups": self.groups, **fields}
        options = {name: getattr(self, name) for name in ("attention_implementation", "conv_implementation", "dtype")}
        return cls(self.channels[level], **fields, **options, name=name)

    @property
    def connections(self) -> int:
        """How many skip connections there are, and stages on the way up."""
        return len(self.channels) * (self.blocks + 1)

    def encode(
        self,
        x: Map,
        t: Num[Array, "B"],
        context: Context | None,
        hint: Float[Array, "B H W {self.channels[0]}"] | None = None,
        depth: int | None = None,
    ) -> tuple[Array, tuple[Array, ...], Float[Array, "B E"]]:
        """The middle's output, the skip connections in the order they arise, and the timestep embedding.

        `hint` is added after the first convolution. With a `depth` it stops at that many skip connections, at the last one's map.
        """
        assert (context is None) == (self.context_dim is None), "context goes with context_dim"
        temb = TimestepEmbedding(self.channels[0], self.dtype, name="time_embedding")(t)
        x = nn.Conv(self.channels[0], (3, 3), dtype=self.dtype, name="conv_in")(x)
        x = x if hint is None else x + hint
        skips, most = (x,), self.connections if depth is None else depth
        for i in range(len(self.channels)):
            if (left := most - len(skips)) == 0:
                break
            options = {"blocks": min(self.blocks, left), "resample": self.blocks < left}
            x, more = self.block(DownBlock, i, f"down_blocks_{i}", **options)(x, temb, context)
            skips += more
        if depth is None:
            x = self.block(MidBlock, -1, "mid_block", attention=any(self.attention))(x, temb, context)
        return x, skips, temb


class UNet(UNetEncoder):
    """The noise (or velocity) predictor; Stable Diffusion 2.1's at the default sizes.

    Height and width are multiples of 2**(levels - 1). Zero-initialised as the original: every ResBlock's and transformer's last
    layer and the output start at zero. With `shortcut` a linear map of the last stage's features is added, each feature scaled by
    a learnt function of t and by a gate of its place: where the image is flat the noise can be taken off exactly, however narrow
    the network (the embedded model; not in released ones).
    """

    out_channels: int = 4
    shortcut: bool = False

    @nn.compact
    def __call__(
        self,
        z_t: Float[Array, "B h w {self.in_channels}"],
        t: Num[Array, "B"],
        context: Context | None,
        control: tuple[Array, ...] | None = None,
        depth: int | None = None,
        deep: Map | None = None,
    ) -> Float[Array, "B h w {self.out_channels}"] | tuple[Float[Array, "B h w {self.out_channels}"], Array]:
        """The prediction at steps t of 1000, float32; with a `depth` and no `deep` also the map to be given as `deep`.

        Args:
            control: as `LAControlNet` returns it, times the control strength: one map for every skip connection, in the order they
                arise, the middle's last; each is added.
            depth: how many stages, the last on the way up and the first on the way down, 1 to `connections`, are computed at every
                step, while what lies deeper changes little and may be reused (DeepCache, Ma et al. 2024, section 3.2).
            deep: the map that the last `depth` stages were given at an earlier step. Nothing deeper is computed, and `control` is
                the first `depth` maps alone.
        """
        x, skips, temb = self.encode(z_t, t, context, depth=None if deep is None else depth)
        if control is not None:
            x = x + control[-1] if deep is None else x
            maps = control[:-1] if deep is None else control
            skips = tuple(skip + c for skip, c in zip(skips, maps, strict=True))
        levels, stages = len(self.channels), self.blocks + 1
        options = [{"stages": stages, "resample": i + 1 < levels} for i in range(levels)]
        blocks = [self.block(UpBlock, -1 - i, f"up_blocks_{i}", **of) for i, of in enumerate(options)]

        def climbed(x: Array, skips: tuple[Array, ...], begin: int, end: int) -> Array:
            """x after the stages from `begin` to before `end`."""
            for i, block in enumerate(blocks):
                first, last = (min(max(at - i * stages, 0), stages) for at in (begin, end))
                if first < last:
                    skips, taken = skips[: first - last], skips[: first - last - 1 : -1]
                    x = block(x, taken, temb, context, first)
            return x

        shallow, keep = self.connections if depth is None else depth, depth is not None and deep is None
        if deep is None:
            deep = climbed(x, skips[shallow:], 0, self.connections - shallow)
        x = climbed(deep, skips[:shallow], self.connections - shallow, self.connections)
        h = nn.silu(nn.GroupNorm(self.groups, epsilon=1e-5, dtype=self.dtype, name="conv_norm_out")(x))
        conv = partial(nn.Conv, self.out_channels, (3, 3), kernel_init=ZERO, dtype=self.dtype)
        prediction = conv(name="conv_out")(h).astype(jnp.float32)
        if self.shortcut:
            dense = partial(nn.Dense, kernel_init=ZERO, dtype=self.dtype)
            scale, gate = dense(x.shape[-1], name="shortcut_scale")(nn.silu(temb)), dense(x.shape[-1], name="shortcut_gate")(h)
            linear = dense(self.out_channels, use_bias=False, name="shortcut")(x * (1 + scale[:, None, None] + gate))
            prediction += linear.astype(jnp.float32)
        return (prediction, deep) if keep else prediction
