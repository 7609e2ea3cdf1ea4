"""Released keys of BSRNet (`BSRNet.pth`)."""

from collections.abc import Iterator

from diffbir_jax.models.bsrnet import RRDBNet
from diffbir_jax.weights.torch_format import Row


def rows(net: RRDBNet) -> Iterator[Row]:
    """The table of an RRDBNet."""
    for i in range(net.blocks):
        for j in range(3):
            for k in range(1, 6):
                yield Row(f"blocks_{i}/dense_{j}/conv{k}", f"RRDB_trunk.{i}.RDB{j + 1}.conv{k}")
    for i in range(net.scale.bit_length() - 1):
        yield Row(f"upsample_{i}/conv", f"upconv{i + 1}")
    yield Row("conv_body", "trunk_conv")
    yield Row("conv_hr", "HRconv")
    for name in ("conv_first", "conv_last"):
        yield Row(name, name)
