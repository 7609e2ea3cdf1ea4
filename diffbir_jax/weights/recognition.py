"""Which network a released state is: its kind and sizes, by keys and shapes."""

import re
from collections.abc import Mapping
from math import isqrt

import numpy as np
from flax import linen as nn

from diffbir_jax.errors import InputError
from diffbir_jax.models.autoencoder import AutoencoderKL
from diffbir_jax.models.bsrnet import RRDBNet
from diffbir_jax.models.control import LAControlNet
from diffbir_jax.models.scunet import SCUNet
from diffbir_jax.models.swinir import SwinIR
from diffbir_jax.models.text_encoder import TextEncoder
from diffbir_jax.models.unet import UNet

State = Mapping[str, np.ndarray]
GROUPS, HEAD_DIM = 32, 64  # what the shapes do not tell: the released models'

STRANGERS = {  # a part of a key -> what has it; the first that fits
    "lora_": "a LoRA",
    "input_hint_block.": "a plain ControlNet, whose condition is an image",
    "conditioner.embedders.": "Stable Diffusion XL",
    "cond_stage_model.transformer.text_model.": "Stable Diffusion 1",
    "joint_blocks.": "Stable Diffusion 3",
    "down_blocks.0.": "a network of diffusers alone: give its folder, with config.json",
    "text_model.encoder.layers.": "a text encoder of transformers alone: give the diffusers folder",
    "body.0.rdb1.": "a Real-ESRGAN in BasicSR's names",
}


def recognise(state: State, head_dim: int | None = None) -> nn.Module:
    """The network whose state this is.

    Args:
        state: keys and arrays of one network.
        head_dim: size of the attention heads of a UNet, control branch or text tower, which the shapes do not tell; None: 64, as in
            the released models.

    Raises:
        InputError: none of ours, or its sizes do not fit together.
    """
    if "conv_first.1.weight" in state and "patch_embed.norm.weight" in state:
        return swinir_of(state)
    if "input_hint_block.0.weight" not in state and "input_blocks.0.0.weight" in state:
        return control_of(state, head_dim) if "zero_convs.0.0.weight" in state else unet_of(state, head_dim)
    for key, recogniser in (("quant_conv.weight", autoencoder_of), ("RRDB_trunk.0.RDB1.conv1.weight", rrdbnet_of),
                            ("m_head.0.weight", scunet_of)):  # fmt: skip
        if key in state:
            return recogniser(state)
    if "model.token_embedding.weight" in state:
        return text_encoder_of(state, head_dim)
    raise InputError(f"none of DiffBIR's networks; its first keys are {', '.join(sorted(state)[:3])}")


def stranger(state: State) -> str:
    """ " (it looks like …)" for a state that is known not to be ours, else ""."""
    known = (what for mark, what in STRANGERS.items() if any(mark in key for key in state))
    return next((f" (it looks like {what})" for what in known), "")


def swinir_of(state: State) -> SwinIR:
    """The SwinIR whose state this is.

    Raises:
        InputError: a key is missing, or the sizes do not fit together; so for all below.
    """
    depths = _counts(state, r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.")
    groups = [f"layers.{i}.residual_group.blocks.0" for i in range(max(1, len(depths)))]
    tables = [shape_of(state, f"{group}.attn.relative_position_bias_table", 2) for group in groups]
    embed_dim, pixels, *_ = shape_of(state, "conv_first.1.weight", 4)
    net = SwinIR(
        embed_dim=embed_dim,
        depths=tuple(depths),
        heads=tuple(heads for _, heads in tables),
        window=(isqrt(tables[0][0]) + 1) // 2,
        mlp_ratio=shape_of(state, f"{groups[0]}.mlp.fc1.weight", 2)[0] // embed_dim,
        unshuffle=isqrt(pixels // 3),
        features=shape_of(state, "conv_before_upsample.0.weight", 4)[0],
    )
    if any(embed_dim % heads for heads in net.heads):
        raise InputError(f"a SwinIR of width {embed_dim} cannot have {max(net.heads)} heads; give the original's weights")
    upsamplings = len(_matches(state, r"conv_up(\d+)\.weight"))
    if 2**upsamplings != net.unshuffle:
        raise InputError(f"a SwinIR that shrinks {net.unshuffle} times and enlarges {2**upsamplings} times; both must be equal")
    return net


def rrdbnet_of(state: State) -> RRDBNet:
    """The RRDBNet (BSRNet) whose state this is."""
    return RRDBNet(
        features=shape_of(state, "conv_first.weight", 4)[0],
        blocks=len(_matches(state, r"RRDB_trunk\.(\d+)\.")),
        growth=shape_of(state, "RRDB_trunk.0.RDB1.conv1.weight", 4)[0],
        scale=2 ** len(_matches(state, r"upconv(\d+)\.weight")),
    )


def scunet_of(state: State) -> SCUNet:
    """The SCUNet whose state this is."""
    stages = ("m_down1", "m_down2", "m_down3", "m_body", "m_up3", "m_up2", "m_up1")
    config = tuple(len(_matches(state, rf"{stage}\.(\d+)\.conv1_1\.weight")) for stage in stages)
    return SCUNet(config=config, dim=shape_of(state, "m_head.0.weight", 4)[0])


def autoencoder_of(state: State) -> AutoencoderKL:
    """The autoencoder whose state this is."""
    levels = len(_matches(state, r"encoder\.down\.(\d+)\."))
    channels = tuple(shape_of(state, f"encoder.down.{i}.block.0.conv1.weight", 4)[0] for i in range(max(1, levels)))
    return AutoencoderKL(
        channels=_grouped(channels),
        blocks=len(_matches(state, r"encoder\.down\.0\.block\.(\d+)\.")),
        latent_channels=shape_of(state, "quant_conv.weight", 4)[0] // 2,
        groups=GROUPS,
        mid_attention="encoder.mid.attn_1.q.weight" in state,
    )


def text_encoder_of(state: State, head_dim: int | None = None) -> TextEncoder:
    """The text tower whose state this is."""
    vocab_size, width = shape_of(state, "model.token_embedding.weight", 2)
    return TextEncoder(
        width=width,
        layers=len(_matches(state, r"model\.transformer\.resblocks\.(\d+)\.")),
        heads=width // _head_dim([width], head_dim),
        vocab_size=vocab_size,
        context_length=shape_of(state, "model.positional_embedding", 2)[0],
    )


def unet_of(state: State, head_dim: int | None = None) -> UNet:
    """The UNet whose state this is."""
    outputs = shape_of(state, "out.2.weight", 4)[0]
    inputs = shape_of(state, "input_blocks.0.0.weight", 4)[1]
    return UNet(**_encoder_sizes(state, "UNet", head_dim), in_channels=inputs, out_channels=outputs)


def control_of(state: State, head_dim: int | None = None) -> LAControlNet:
    """The control branch whose state this is; half of its input channels are the condition's."""
    inputs = shape_of(state, "input_blocks.0.0.weight", 4)[1]
    if inputs % 2:
        raise InputError(f"a control branch of {inputs} input channels; DiffBIR's has z_t and as many of the condition")
    return LAControlNet(**_encoder_sizes(state, "control branch", head_dim), in_channels=inputs // 2, cond_channels=inputs // 2)


def _encoder_sizes(state: State, what: str, head_dim: int | None) -> dict[str, object]:
    levels = 1 + len(_matches(state, r"input_blocks\.(\d+)\.0\.op\.weight"))
    stages = len(_matches(state, r"input_blocks\.(\d+)\."))
    width = shape_of(state, "input_blocks.0.0.weight", 4)[0]
    if stages % levels or stages < 2 * levels:
        raise InputError(f"a {what} of {stages} stages on {levels} levels; give the whole file")
    first = [1 + i * stages // levels for i in range(levels)]
    channels = tuple(shape_of(state, f"input_blocks.{n}.0.out_layers.3.weight", 4)[0] for n in first)
    attention = tuple(f"input_blocks.{n}.1.proj_in.weight" in state for n in first)
    contexts = [key for key in state if key.endswith(".attn2.to_k.weight")]
    _grouped((width, *channels))
    attending = [c for c, attends in zip(channels, attention, strict=True) if attends] + [channels[-1]]
    return {
        "channels": channels,
        "blocks": stages // levels - 1,
        "attention": attention,
        "head_dim": _head_dim(attending, head_dim),
        "context_dim": shape_of(state, contexts[0], 2)[1] if contexts else None,
    }


def _matches(state: State, pattern: str) -> set[str]:
    """What the pattern's first group is in the keys that begin with it."""
    return {found[1] for found in map(re.compile(pattern).match, state) if found}


def _counts(state: State, pattern: str) -> list[int]:
    """How many second groups each first group has, by the first."""
    pairs = {found.groups() for found in map(re.compile(pattern).match, state) if found}
    firsts = [int(first) for first, _ in pairs]
    return [firsts.count(first) for first in sorted(set(firsts))]


def _grouped(channels: tuple[int, ...]) -> tuple[int, ...]:
    if odd := [c for c in channels if c % GROUPS]:
        raise InputError(f"a network with {odd[0]} channels, which is no multiple of its {GROUPS} groups")
    return channels


def _head_dim(widths: list[int], wanted: int | None) -> int:
    head_dim = HEAD_DIM if wanted is None else wanted
    if head_dim < 1 or any(c % head_dim for c in widths):
        raise InputError(f"heads of size {head_dim} do not divide {', '.join(map(str, widths))} channels; give --head-dim")
    return head_dim


def shape_of(state: State, key: str, rank: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there, of this rank, and not be empty."""
    if key not in state:
        raise InputError(f"the weights lack {key!r}; give the whole checkpoint of this network")
    shape = state[key].shape
    if len(shape) != rank or 0 in shape:
        raise InputError(f"{key!r} has shape {list(shape)}, which is none of this network's")
    return shape
