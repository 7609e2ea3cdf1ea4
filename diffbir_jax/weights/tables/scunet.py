"""Released keys of SCUNet (`scunet_color_real_psnr.pth`): a stage is a sequence, resampling last on the way down, else first."""

from collections.abc import Iterator

from diffbir_jax.models.scunet import SCUNet
from diffbir_jax.weights.torch_format import Row

_BLOCK = {
    "conv1_1": "conv1_1",
    "conv1_2": "conv1_2",
    "conv1": "conv_block.0",
    "conv2": "conv_block.2",
    "swin/norm1": "trans_block.ln1",
    "swin/norm2": "trans_block.ln2",
    "swin/fc1": "trans_block.mlp.0",
    "swin/fc2": "trans_block.mlp.2",
    "swin/attn/qkv": "trans_block.msa.embedding_layer",
    "swin/attn/proj": "trans_block.msa.linear",
}


def block(ours: str, theirs: str) -> Iterator[Row]:
    for name, their_name in _BLOCK.items():
        yield Row(f"{ours}/{name}", f"{theirs}.{their_name}")
    bias = "relative_position_params"
    yield Row(f"{ours}/swin/attn/{bias}", f"{theirs}.trans_block.msa.{bias}", "array")


def rows(net: SCUNet) -> Iterator[Row]:
    """The table of a SCUNet."""
    yield Row("head", "m_head.0")
    yield Row("tail", "m_tail.0")
    for name, count in zip(("down1", "down2", "down3", "body", "up3", "up2", "up1"), net.config, strict=True):
        first = 1 if name.startswith("up") else 0
        for i in range(count):
            yield from block(f"{name}_blocks_{i}", f"m_{name}.{first + i}")
        if name.startswith("down"):
            yield Row(f"{name}_resample", f"m_{name}.{count}")
        elif name.startswith("up"):
            yield Row(f"{name}_resample", f"m_{name}.0", "transposed")
