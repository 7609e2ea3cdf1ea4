"""Released keys of SwinIR (`preprocess_model.` in the v1 checkpoints), and the buffers that follow from its sizes."""

from collections.abc import Iterator

import numpy as np

from diffbir_jax.models.swinir import SwinIR
from diffbir_jax.models.windows import relative_index, shift_mask
from diffbir_jax.weights.torch_format import Row


def blocks(net: SwinIR) -> Iterator[tuple[str, str, int]]:
    """Every Swin layer: our path, their prefix, its place in its group."""
    for i, depth in enumerate(net.depths):
        for j in range(depth):
            yield f"layers_{i}/blocks_{j}", f"layers.{i}.residual_group.blocks.{j}", j


def rows(net: SwinIR) -> Iterator[Row]:
    """The table of a SwinIR."""
    yield Row("conv_first", "conv_first.1")
    yield Row("patch_norm", "patch_embed.norm")
    for ours, theirs, _ in blocks(net):
        yield Row(f"{ours}/attn/relative_position_bias_table", f"{theirs}.attn.relative_position_bias_table", "array")
        for name in ("attn/qkv", "attn/proj", "norm1", "norm2"):
            yield Row(f"{ours}/{name}", f"{theirs}.{name.replace('/', '.')}")
        for name in ("fc1", "fc2"):
            yield Row(f"{ours}/{name}", f"{theirs}.mlp.{name}")
    for i in range(len(net.depths)):
        yield Row(f"layers_{i}/conv", f"layers.{i}.conv")
    for name in ("norm", "conv_after_body"):
        yield Row(name, name)
    if net.upsampler == "pixelshuffledirect":
        yield Row("upsample", "upsample.0")
        return
    yield Row("conv_before_upsample", "conv_before_upsample.0")
    for i in range(net.unshuffle.bit_length() - 1):
        yield Row(f"upsample_{i}/conv", f"conv_up{i + 1}")
    for name in ("conv_hr", "conv_last"):
        yield Row(name, name)


def buffers(net: SwinIR, image_size: int = 64) -> dict[str, np.ndarray]:
    """What the released files hold besides parameters, so that the original loads ours strictly.

    Args:
        net: the network.
        image_size: the original's `img_size`: side of the map of tokens that its stored masks are for (64 in the released files).

    Returns:
        `relative_position_index` (int64 [N, N]) of every layer and `attn_mask` (float32 [M, N, N], 0 or -100) of every shifted one.
    """
    index = relative_index(net.window).astype(np.int64)
    mask = np.where(shift_mask(image_size, image_size, net.window, net.window // 2), np.float32(-100), np.float32(0))
    found = {}
    for _, theirs, place in blocks(net):
        found[f"{theirs}.attn.relative_position_index"] = index
        if place % 2:
            found[f"{theirs}.attn_mask"] = mask
    return found
