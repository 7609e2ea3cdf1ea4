"""Released keys of the control branch (`control_model.` in version 1's checkpoints)."""

from collections.abc import Iterator

from diffbir_jax.models.control import LAControlNet
from diffbir_jax.weights.tables.unet import encoder
from diffbir_jax.weights.torch_format import Row


def rows(net: LAControlNet) -> Iterator[Row]:
    """The table of a control branch: the UNet's encoder and the 1x1 convolutions."""
    yield from encoder(net)
    for i in range(len(net.channels) * (net.blocks + 1)):
        yield Row(f"controlnet_down_blocks_{i}", f"zero_convs.{i}.0")
    yield Row("controlnet_mid_block", "middle_block_out.0")
