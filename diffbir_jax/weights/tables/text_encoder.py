"""Released keys of the text tower (`cond_stage_model.` in the checkpoints); `logit_scale` and `text_projection` have no place."""

from collections.abc import Iterator

from diffbir_jax.models.text_encoder import TextEncoder
from diffbir_jax.weights.torch_format import Row


def layer(ours: str, theirs: str) -> Iterator[Row]:
    yield Row("+".join(f"{ours}/self_attn/{name}_proj" for name in "qkv"), f"{theirs}.attn.in_proj", "stacked")
    yield Row(f"{ours}/self_attn/out_proj", f"{theirs}.attn.out_proj")
    yield Row(f"{ours}/layer_norm1", f"{theirs}.ln_1")
    yield Row(f"{ours}/layer_norm2", f"{theirs}.ln_2")
    yield Row(f"{ours}/mlp/fc1", f"{theirs}.mlp.c_fc")
    yield Row(f"{ours}/mlp/fc2", f"{theirs}.mlp.c_proj")


def rows(net: TextEncoder) -> Iterator[Row]:
    """The table of a text encoder."""
    yield Row("text_model/embeddings/token_embedding", "model.token_embedding")
    yield Row("text_model/embeddings/position_embedding/embedding", "model.positional_embedding", "array")
    for i in range(net.layers):
        yield from layer(f"text_model/encoder/layers/{i}", f"model.transformer.resblocks.{i}")
    yield Row("text_model/final_layer_norm", "model.ln_final")
