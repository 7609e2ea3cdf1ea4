"""Networks that keep less for the backward pass: every block's activations are computed again."""

from typing import Any

from flax import linen as nn

from diffbir_jax.models.control import ControlNet, LAControlNet
from diffbir_jax.models.unet import UNet, UpBlock


class _Remat:
    """Of a UNetEncoder: each block keeps its inputs alone (gradient checkpointing, Chen et al. 2016)."""

    def block(self, cls: type[nn.Module], level: int, name: str, **fields: Any) -> nn.Module:
        first = (5,) if cls is UpBlock else ()  # the stage it is called from is no array
        return super().block(nn.remat(cls, static_argnums=first), level, name, **fields)


class RematUNet(_Remat, UNet):
    """A UNet; see `_Remat`."""


class RematLAControlNet(_Remat, LAControlNet):
    """An LAControlNet; see `_Remat`."""


class RematControlNet(_Remat, ControlNet):
    """A ControlNet; see `_Remat`."""


KINDS = {UNet: RematUNet, LAControlNet: RematLAControlNet, ControlNet: RematControlNet}


def rematted(net: nn.Module) -> nn.Module:
    """The same network with blocks that are computed again in the backward pass; one that is no UNet or branch as it is."""
    if type(net) not in KINDS:
        return net
    return KINDS[type(net)](**{f: getattr(net, f) for f in net.__dataclass_fields__ if f not in ("parent", "name")})
