"""Released keys of the autoencoder (`first_stage_model.` in the checkpoints)."""

from collections.abc import Iterator

from diffbir_jax.models.autoencoder import AutoencoderKL
from diffbir_jax.weights.torch_format import Row


def resblock(ours: str, theirs: str) -> Iterator[Row]:
    for name in ("norm1", "conv1", "norm2", "conv2"):
        yield Row(f"{ours}/{name}", f"{theirs}.{name}")
    yield Row(f"{ours}/conv_shortcut", f"{theirs}.nin_shortcut")


def attention_block(ours: str, theirs: str) -> Iterator[Row]:
    yield Row(f"{ours}/group_norm", f"{theirs}.norm")
    for name, their_name in (("query", "q"), ("key", "k"), ("value", "v"), ("proj_attn", "proj_out")):
        yield Row(f"{ours}/{name}", f"{theirs}.{their_name}", "pointwise")


def ends_and_middle(part: str) -> Iterator[Row]:
    yield Row(f"{part}/conv_in", f"{part}.conv_in")
    yield from resblock(f"{part}/mid_block/resnets_0", f"{part}.mid.block_1")
    yield from attention_block(f"{part}/mid_block/attentions_0", f"{part}.mid.attn_1")
    yield from resblock(f"{part}/mid_block/resnets_1", f"{part}.mid.block_2")
    yield Row(f"{part}/conv_norm_out", f"{part}.norm_out")
    yield Row(f"{part}/conv_out", f"{part}.conv_out")


def level(ours: str, theirs: str, blocks: int, resample: str) -> Iterator[Row]:
    for j in range(blocks):
        yield from resblock(f"{ours}/resnets_{j}", f"{theirs}.block.{j}")
    yield Row(f"{ours}/{resample}rs_0/conv", f"{theirs}.{resample}.conv")


def rows(net: AutoencoderKL) -> Iterator[Row]:
    """The table of an autoencoder; their decoder counts levels from the finest, ours in the order they run."""
    yield Row("quant_conv", "quant_conv")
    yield Row("post_quant_conv", "post_quant_conv")
    for part in ("encoder", "decoder"):
        yield from ends_and_middle(part)
    for i in range(len(net.channels)):
        yield from level(f"encoder/down_blocks_{i}", f"encoder.down.{i}", net.blocks, "downsample")
        yield from level(f"decoder/up_blocks_{i}", f"decoder.up.{len(net.channels) - 1 - i}", net.blocks + 1, "upsample")
