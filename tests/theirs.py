"""PyTorch's networks beside ours: diffusers' modules, a control branch put together of their blocks, and SwinIR written out.

They hold our weights by the released or diffusers' keys, and know nothing of JAX.
"""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

MEAN = (0.4488, 0.4371, 0.4040)


def tensors(state: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Copies of arrays."""
    return {key: torch.from_numpy(np.array(x, order="C")) for key, x in state.items()}


def nchw(x: Any) -> Tensor:
    """A map of ours."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def module(cls: type, config: Mapping[str, Any], state: Mapping[str, Tensor], **changes: Any) -> tuple[torch.nn.Module, list[str]]:
    """A module of diffusers or transformers that holds the state, and the keys that the state lacks: these have no memory."""
    with torch.device("meta"):
        made = cls(**{k: v for k, v in config.items() if k != "_class_name"} | changes)
    missing, unexpected = made.load_state_dict(state, assign=True, strict=False)
    assert not unexpected
    return made.eval(), missing


class ControlBranch(torch.nn.Module):
    """A UNet's encoder with 8 input channels, then a 1x1 convolution an output."""

    def __init__(self, config: Mapping[str, Any], state: Mapping[str, Tensor]):
        super().__init__()
        points = {key: x for key, x in state.items() if key.startswith("controlnet_")}
        own = {key: x for key, x in state.items() if key not in points}
        self.encoder, missing = module(diffusers.UNet2DConditionModel, config, own, in_channels=8)
        assert all(key.startswith(("up_blocks.", "conv_norm_out.", "conv_out.")) for key in missing)
        del self.encoder.up_blocks, self.encoder.conv_norm_out, self.encoder.conv_out
        outputs = [f"controlnet_down_blocks.{i}" for i in range(len(points) // 2 - 1)] + ["controlnet_mid_block"]
        weights = [(points[f"{name}.weight"], points[f"{name}.bias"]) for name in outputs]
        self.weights, self.biases = (torch.nn.ParameterList(x) for x in zip(*weights, strict=True))

    def forward(self, z_t: Tensor, cond: Tensor, t: Tensor, context: Tensor) -> list[Tensor]:
        net = self.encoder
        temb = net.time_embedding(net.time_proj(t).to(z_t.dtype))
        x = net.conv_in(torch.cat([z_t, cond], 1))
        maps = [x]
        for block in net.down_blocks:
            attends = {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}
            x, more = block(hidden_states=x, temb=temb, **attends)
            maps += more
        maps.append(net.mid_block(x, temb, encoder_hidden_states=context))
        return [F.conv2d(x, w, b) for x, w, b in zip(maps, self.weights, self.biases, strict=True)]


def controlled(unet: torch.nn.Module, control: list[Tensor], z_t: Tensor, t: Tensor, context: Tensor) -> Tensor:
    """The UNet's prediction under a branch's outputs."""
    added = {"down_block_additional_residuals": control[:-1], "mid_block_additional_residual": control[-1]}
    return unet(z_t, t, encoder_hidden_states=context, **added).sample


@torch.no_grad()
def swinir(state: Mapping[str, Tensor], net: Any, lq: Tensor) -> Tensor:
    """SwinIR for images [B, 3, H, W] whose sides are multiples of 64; `net` has our SwinIR's sizes."""
    b, c, window = len(lq), net.embed_dim, net.window
    norm = partial(_layer_norm, state)
    conv = partial(_conv, state)
    mean = lq.new_tensor(MEAN)[None, :, None, None]
    shallow = conv("conv_first.1", F.pixel_unshuffle(lq - mean, net.unshuffle))
    h, w = shallow.shape[2:]
    mask = _shift_mask(h, w, window).to(lq)
    x = norm("patch_embed.norm", shallow.flatten(2).transpose(1, 2))
    for i, depth in enumerate(net.depths):
        before = x
        for j in range(depth):
            name, shift = f"layers.{i}.residual_group.blocks.{j}", window // 2 * (j % 2)
            y = norm(f"{name}.norm1", x).view(b, h, w, c).roll((-shift, -shift), (1, 2))
            y = y.view(b, h // window, window, w // window, window, c).transpose(2, 3).reshape(-1, window**2, c)
            y = _window_attention(state, f"{name}.attn", net.heads[i], y, mask if shift else None)
            y = y.view(b, h // window, w // window, window, window, c).transpose(2, 3).reshape(b, h, w, c)
            x = x + y.roll((shift, shift), (1, 2)).reshape(b, h * w, c)
            y = F.gelu(F.linear(norm(f"{name}.norm2", x), state[f"{name}.mlp.fc1.weight"], state[f"{name}.mlp.fc1.bias"]))
            x = x + F.linear(y, state[f"{name}.mlp.fc2.weight"], state[f"{name}.mlp.fc2.bias"])
        x = before + conv(f"layers.{i}.conv", x.transpose(1, 2).reshape(b, c, h, w)).flatten(2).transpose(1, 2)
    x = shallow + conv("conv_after_body", norm("norm", x).transpose(1, 2).reshape(b, c, h, w))
    x = F.leaky_relu(conv("conv_before_upsample.0", x), 0.01)
    for i in range(net.unshuffle.bit_length() - 1):
        x = F.leaky_relu(conv(f"conv_up{i + 1}", F.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
    return conv("conv_last", F.leaky_relu(conv("conv_hr", x), 0.2)) + mean


def _layer_norm(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)


def _conv(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)


def _window_attention(state: Mapping[str, Tensor], name: str, heads: int, x: Tensor, mask: Tensor | None) -> Tensor:
    windows, tokens, c = x.shape
    q, k, v = (
        F.linear(x, state[f"{name}.qkv.weight"], state[f"{name}.qkv.bias"])
        .view(windows, tokens, 3, heads, -1)
        .permute(2, 0, 3, 1, 4)
    )
    logits = (q * (c // heads) ** -0.5) @ k.transpose(-2, -1)
    index = state[f"{name}.relative_position_index"].flatten()
    logits = logits + state[f"{name}.relative_position_bias_table"][index].view(tokens, tokens, heads).permute(2, 0, 1)
    if mask is not None:
        logits = logits + mask.repeat(windows // len(mask), 1, 1)[:, None]
    x = (logits.softmax(-1) @ v).transpose(1, 2).reshape(windows, tokens, c)
    return F.linear(x, state[f"{name}.proj.weight"], state[f"{name}.proj.bias"])


@cache
def _shift_mask(h: int, w: int, window: int) -> Tensor:
    """-100 between tokens that were not neighbours before the shift: the image is cut in 3 x 3 regions."""
    regions = torch.zeros(h, w)
    cuts = (slice(0, -window), slice(-window, -window // 2), slice(-window // 2, None))
    for i, rows in enumerate(cuts):
        for j, columns in enumerate(cuts):
            regions[rows, columns] = 3 * i + j
    regions = regions.view(h // window, window, w // window, window).permute(0, 2, 1, 3).reshape(-1, window**2)
    return torch.where(regions[:, None] == regions[:, :, None], 0.0, -100.0)
