"""Branches that steer the UNet by the restored image: DiffBIR's LAControlNet and the plain ControlNet of its ablation."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Num

from diffbir_jax.models.layers import ZERO
from diffbir_jax.models.unet import UNetEncoder
from diffbir_jax.types import Context, Image, Params


class ControlBranch(UNetEncoder):
    """A UNet's encoder and middle, then one 1x1 convolution an output that starts at zero (ControlNet, Zhang et al. 2023)."""

    def branch(self, x: Array, t: Num[Array, "B"], context: Context | None, hint: Array | None = None) -> tuple[Array, ...]:
        """One map for every skip connection in the order they arise, the middle's last."""
        middle, skips, _ = self.encode(x, t, context, hint)
        names = [f"controlnet_down_blocks_{i}" for i in range(len(skips))] + ["controlnet_mid_block"]
        conv = partial(nn.Conv, kernel_size=(1, 1), kernel_init=ZERO, dtype=self.dtype)
        return tuple(conv(h.shape[-1], name=name)(h) for name, h in zip(names, (*skips, middle), strict=True))


class LAControlNet(ControlBranch):
    """The control branch of DiffBIR (v1, section 3.2): its condition is the restored image's latent, beside z_t on channels.

    The fields are the UNet's, and `cond_channels`: channels of the condition latent.
    """

    cond_channels: int = 4

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct | None, ...]:
        """The smallest z_t, t, context and cond_latent of `init`, for `jax.eval_shape`."""
        z_t, t, context = super().example_inputs()
        return z_t, t, context, jax.ShapeDtypeStruct((*z_t.shape[:3], self.cond_channels), jnp.float32)

    @nn.compact
    def __call__(
        self,
        z_t: Float[Array, "B h w {self.in_channels}"],
        t: Num[Array, "B"],
        context: Context | None,
        cond_latent: Float[Array, "B h w {self.cond_channels}"],
    ) -> tuple[Array, ...]:
        """The maps to add in the UNet: one for every skip connection in the order they arise, the middle's last."""
        return self.branch(jnp.concatenate([z_t, cond_latent], axis=-1), t, context)


class ConditionEmbedding(nn.Module):
    """Image to the UNet's first map: 3x3 convolutions with SiLU between, the last starting at zero (ControlNet, section 3.3)."""

    channels: tuple[int, ...]
    out_channels: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Image) -> Float[Array, "B h w {self.out_channels}"]:
        conv = partial(nn.Conv, kernel_size=(3, 3), padding=1, dtype=self.dtype)
        x = nn.silu(conv(self.channels[0], name="conv_in")(image))
        for i, (same, wider) in enumerate(zip(self.channels, self.channels[1:], strict=False)):
            x = nn.silu(conv(same, name=f"blocks_{2 * i}")(x))
            x = nn.silu(conv(wider, strides=2, name=f"blocks_{2 * i + 1}")(x))
        return conv(self.out_channels, kernel_init=ZERO, name="conv_out")(x)


class ControlNet(ControlBranch):
    """The ablation's branch: its condition is the restored image, through an encoder trained from scratch.

    The fields are the UNet's, and `cond_channels`: of the condition encoder's maps, finest first; every one after the first halves
    the size, so the default fits an autoencoder of factor 8.
    """

    cond_channels: tuple[int, ...] = (16, 32, 96, 256)

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct | None, ...]:
        """The smallest z_t, t, context and image of `init`, for `jax.eval_shape`."""
        z_t, t, context = super().example_inputs()
        side = z_t.shape[1] * 2 ** (len(self.cond_channels) - 1)
        return z_t, t, context, jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)

    @nn.compact
    def __call__(
        self, z_t: Float[Array, "B h w {self.in_channels}"], t: Num[Array, "B"], context: Context | None, image: Image
    ) -> tuple[Array, ...]:
        """The maps to add in the UNet, for an image in [0, 1]; otherwise as `LAControlNet`."""
        embedding = ConditionEmbedding(self.cond_channels, self.channels[0], self.dtype, name="controlnet_cond_embedding")
        return self.branch(z_t, t, context, embedding(image))


def control_from_unet(unet_params: Params, net: LAControlNet | ControlNet, key: Array | None = None) -> dict[str, Any]:
    """Parameters of a control branch that starts as the UNet's encoder: adding its outputs changes nothing.

    Args:
        unet_params: of a UNet of the same sizes.
        net: the branch. Its weights are copies of the UNet's; those of new input channels and the 1x1 convolutions are zero.
        key: draws the condition encoder of a `ControlNet`; `LAControlNet` has nothing to draw.
    """
    shapes = flatten_dict(jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"], sep="/")
    source = flatten_dict(unet_params, sep="/")
    params = unflatten_dict({path: _start(source.get(path), want) for path, want in shapes.items()}, sep="/")
    if isinstance(net, ControlNet):
        *_, image = net.example_inputs()
        embedding = ConditionEmbedding(net.cond_channels, net.channels[0])
        params["controlnet_cond_embedding"] = embedding.init(key, jnp.zeros(image.shape))["params"]
    return params


def _start(source: Any | None, want: jax.ShapeDtypeStruct) -> Array:
    """A new array of zeros that holds `source`, if there is one, at its beginning."""
    start = np.zeros(want.shape, want.dtype)
    if source is not None:
        start[tuple(map(slice, source.shape))] = source
    return jnp.asarray(start)
