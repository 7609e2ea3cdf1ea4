"""Which network a released state is: its kind and sizes by keys and shapes, and the way between it and ours."""

import re
from collections import Counter
from collections.abc import Mapping
from math import isqrt
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from diffbir_jax.errors import InputError
from diffbir_jax.models.control import LAControlNet
from diffbir_jax.models.swinir import SwinIR
from diffbir_jax.types import Params
from diffbir_jax.weights.tables import control, swinir
from diffbir_jax.weights.torch_format import from_torch, to_torch

State = Mapping[str, np.ndarray]
GROUPS, HEAD_DIM, IMAGE_SIZE = 32, 64, 64  # what the shapes do not tell: the released models'


def recognise(state: State, head_dim: int | None = None) -> SwinIR | LAControlNet:
    """The network whose state this is.

    Args:
        state: keys and arrays of one network.
        head_dim: size of a control branch's attention heads, which the shapes do not tell; None: 64, as in the released models.

    Raises:
        InputError: neither a SwinIR nor a control branch, or its sizes do not fit together.
    """
    if "conv_first.1.weight" in state and "patch_embed.norm.weight" in state:
        return swinir_of(state)
    if "zero_convs.0.0.weight" in state and "input_hint_block.0.weight" not in state:
        return control_of(state, head_dim)
    raise InputError(f"neither a SwinIR nor DiffBIR's control branch (its first keys are {', '.join(sorted(state)[:3])})")


def swinir_of(state: State) -> SwinIR:
    """The SwinIR whose state this is.

    Raises:
        InputError: a key is missing, or the sizes do not fit together.
    """
    layers = (re.match(r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.", key) for key in state)
    depths = sorted(Counter(int(i) for i, _ in {m.groups() for m in layers if m}).items())
    groups = [f"layers.{i}.residual_group.blocks.0" for i in range(max(1, len(depths)))]
    tables = [_shape(state, f"{group}.attn.relative_position_bias_table", 2) for group in groups]
    embed_dim, pixels, *_ = _shape(state, "conv_first.1.weight", 4)
    net = SwinIR(
        embed_dim=embed_dim,
        depths=tuple(depth for _, depth in depths),
        heads=tuple(heads for _, heads in tables),
        window=(isqrt(tables[0][0]) + 1) // 2,
        mlp_ratio=_shape(state, f"{groups[0]}.mlp.fc1.weight", 2)[0] // embed_dim,
        unshuffle=isqrt(pixels // 3),
        features=_shape(state, "conv_before_upsample.0.weight", 4)[0],
    )
    if any(embed_dim % heads for heads in net.heads):
        raise InputError(f"a SwinIR of width {embed_dim} cannot have {max(net.heads)} heads; give the original's weights")
    upsamplings = sum(re.fullmatch(r"conv_up\d+\.weight", key) is not None for key in state)
    if 2**upsamplings != net.unshuffle:
        raise InputError(f"a SwinIR that shrinks {net.unshuffle} times and enlarges {2**upsamplings} times; both must be equal")
    return net


def control_of(state: State, head_dim: int | None = None) -> LAControlNet:
    """The control branch whose state this is; half of its input channels are the condition's.

    Raises:
        InputError: a key is missing, or the sizes do not fit together.
    """
    levels = 1 + sum(re.fullmatch(r"input_blocks\.\d+\.0\.op\.weight", key) is not None for key in state)
    stages = len({key.split(".")[1] for key in state if key.startswith("input_blocks.")})
    width, inputs, *_ = _shape(state, "input_blocks.0.0.weight", 4)
    if stages % levels or stages < 2 * levels or inputs % 2:
        raise InputError(f"a control branch of {stages} stages on {levels} levels, {inputs} input channels; give the whole file")
    first = [1 + i * stages // levels for i in range(levels)]
    channels = tuple(_shape(state, f"input_blocks.{n}.0.out_layers.3.weight", 4)[0] for n in first)
    attention = tuple(f"input_blocks.{n}.1.proj_in.weight" in state for n in first)
    contexts = [key for key in state if key.endswith(".attn2.to_k.weight")]
    if odd := [c for c in (width, *channels) if c % GROUPS]:
        raise InputError(f"a control branch with {odd[0]} channels, which is no multiple of its {GROUPS} groups")
    return LAControlNet(
        channels=channels,
        blocks=stages // levels - 1,
        attention=attention,
        head_dim=_head_dim([c for c, attends in zip(channels, attention, strict=True) if attends] + [channels[-1]], head_dim),
        context_dim=_shape(state, contexts[0], 2)[1] if contexts else None,
        in_channels=inputs // 2,
        cond_channels=inputs // 2,
    )


def ours(net: SwinIR | LAControlNet, state: State) -> tuple[dict[str, Any], list[str]]:
    """A released state as our parameters.

    Returns:
        The parameters, in the types of the state, and the keys that have no use.

    Raises:
        InputError: a key is missing or has another shape, or a buffer's values are not those that follow from the sizes.
    """
    table = swinir if isinstance(net, SwinIR) else control
    shapes = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]
    params, unused = from_torch(state, table.rows(net), shapes)
    buffers = swinir.buffers(net, image_size(net, state)) if isinstance(net, SwinIR) else {}
    for key in buffers.keys() & state.keys():
        if not np.array_equal(buffers[key], state[key]):
            raise InputError(f"{key!r} has other values than this network's sizes give: not the original SwinIR")
    return params, [key for key in unused if key not in buffers]


def released(net: nn.Module, params: Params, size: int = IMAGE_SIZE) -> dict[str, np.ndarray]:
    """Our parameters as the original's state, with its buffers: its strict loading accepts it.

    Args:
        net: a SwinIR or control branch.
        params: its parameters; arrays keep their type.
        size: the original's `img_size`, for which SwinIR's masks are stored: side of the map of tokens.

    Raises:
        InputError: the original has no such network.
    """
    if isinstance(net, SwinIR):
        if net.residual:
            raise InputError("this SwinIR adds its output to its input, the original does not: it cannot load this one")
        if size < 2 * net.window or size % net.window:
            raise InputError(f"the image size is {size}; give a multiple of the window, {net.window}, twice or more")
        state = to_torch(params, swinir.rows(net))
        kind = state["conv_last.weight"].dtype
        buffers = swinir.buffers(net, size).items()
        return state | {key: x.astype(kind) if key.endswith("attn_mask") else x for key, x in buffers}
    if not isinstance(net, LAControlNet):
        raise InputError(f"a {type(net).__name__} cannot be written for the original yet; SwinIR and LAControlNet can")
    if net.groups != GROUPS or net.context_dim is None or not any(net.attention):
        raise InputError(f"the original's control branch attends to a text, with {GROUPS} groups: it cannot load this one")
    return to_torch(params, control.rows(net))


def image_size(net: SwinIR, state: State) -> int:
    """The original's `img_size` of a SwinIR's stored masks; 64 if there are none.

    Raises:
        InputError: a mask's shape is that of no size.
    """
    masks = [key for key in state if key.endswith(".attn_mask")]
    if not masks:
        return IMAGE_SIZE
    windows = _shape(state, masks[0], 3)[0]
    if isqrt(windows) ** 2 != windows:
        raise InputError(f"{masks[0]!r} is for {windows} windows, which make no square image")
    return isqrt(windows) * net.window


def _head_dim(widths: list[int], wanted: int | None) -> int:
    head_dim = HEAD_DIM if wanted is None else wanted
    if head_dim < 1 or any(c % head_dim for c in widths):
        raise InputError(f"heads of size {head_dim} do not divide {', '.join(map(str, widths))} channels; give --head-dim")
    return head_dim


def _shape(state: State, key: str, rank: int) -> tuple[int, ...]:
    if key not in state:
        raise InputError(f"the weights lack {key!r}; give the whole checkpoint of this network")
    shape = state[key].shape
    if len(shape) != rank or 0 in shape:
        raise InputError(f"{key!r} has shape {list(shape)}, which is none of this network's")
    return shape
