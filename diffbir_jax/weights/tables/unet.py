"""Released keys of the UNet (`model.diffusion_model.` in the checkpoints)."""

from collections.abc import Iterator

from diffbir_jax.models.unet import UNet, UNetEncoder
from diffbir_jax.weights.torch_format import Row


def resblock(ours: str, theirs: str) -> Iterator[Row]:
    yield Row(f"{ours}/norm1", f"{theirs}.in_layers.0")
    yield Row(f"{ours}/conv1", f"{theirs}.in_layers.2")
    yield Row(f"{ours}/time_emb_proj", f"{theirs}.emb_layers.1")
    yield Row(f"{ours}/norm2", f"{theirs}.out_layers.0")
    yield Row(f"{ours}/conv2", f"{theirs}.out_layers.3")
    yield Row(f"{ours}/conv_shortcut", f"{theirs}.skip_connection")


def transformer(ours: str, theirs: str) -> Iterator[Row]:
    for name in ("norm", "proj_in", "proj_out"):
        yield Row(f"{ours}/{name}", f"{theirs}.{name}")
    ours, theirs = f"{ours}/transformer_blocks_0", f"{theirs}.transformer_blocks.0"
    for name in ("norm1", "norm2", "norm3"):
        yield Row(f"{ours}/{name}", f"{theirs}.{name}")
    for attn in ("attn1", "attn2"):
        for name in ("to_q", "to_k", "to_v"):
            yield Row(f"{ours}/{attn}/{name}", f"{theirs}.{attn}.{name}")
        yield Row(f"{ours}/{attn}/to_out_0", f"{theirs}.{attn}.to_out.0")
    yield Row(f"{ours}/ff/net_0/proj", f"{theirs}.ff.net.0.proj")
    yield Row(f"{ours}/ff/net_2", f"{theirs}.ff.net.2")


def encoder(net: UNetEncoder) -> Iterator[Row]:
    """The half that the control branches copy. Their `input_blocks` are numbered through: stages, then a level's change of size."""
    yield Row("time_embedding/linear_1", "time_embed.0")
    yield Row("time_embedding/linear_2", "time_embed.2")
    yield Row("conv_in", "input_blocks.0.0")
    for i in range(len(net.channels)):
        first = 1 + i * (net.blocks + 1)
        for j in range(net.blocks):
            yield from resblock(f"down_blocks_{i}/resnets_{j}", f"input_blocks.{first + j}.0")
            yield from transformer(f"down_blocks_{i}/attentions_{j}", f"input_blocks.{first + j}.1")
        yield Row(f"down_blocks_{i}/downsamplers_0/conv", f"input_blocks.{first + net.blocks}.0.op")
    yield from middle(any(net.attention))


def middle(attention: bool) -> Iterator[Row]:
    yield from resblock("mid_block/resnets_0", "middle_block.0")
    yield from transformer("mid_block/attentions_0", "middle_block.1")
    yield from resblock("mid_block/resnets_1", f"middle_block.{1 + attention}")


def rows(net: UNet) -> Iterator[Row]:
    """The table of a UNet; both count the levels on the way up in the order they run."""
    yield from encoder(net)
    for i, attention in enumerate(reversed(net.attention)):
        first = i * (net.blocks + 1)
        for j in range(net.blocks + 1):
            yield from resblock(f"up_blocks_{i}/resnets_{j}", f"output_blocks.{first + j}.0")
            yield from transformer(f"up_blocks_{i}/attentions_{j}", f"output_blocks.{first + j}.1")
        yield Row(f"up_blocks_{i}/upsamplers_0/conv", f"output_blocks.{first + net.blocks}.{1 + attention}.conv")
    yield Row("conv_norm_out", "out.0")
    yield Row("conv_out", "out.2")
