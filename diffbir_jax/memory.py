"""How much memory a restoration takes, how much there is, and what has to work in tiles."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import linen as nn

from diffbir_jax.imaging.resizing import Size
from diffbir_jax.model import Model
from diffbir_jax.models.control import ControlNet
from diffbir_jax.options import RestoreOptions, parse_bytes

MARGIN = 1.3
PROCESS = 0.6e9  # of JAX on a CPU, its compiler included
IMAGES = 4  # copies of the image on the host, and of stage 1's


class Tiled(NamedTuple):
    """Which stages work in tiles."""

    stage1: bool
    encode: bool
    diffusion: bool
    decode: bool


def what_to_tile(model: Model, lq: Size, frame: Size, options: RestoreOptions, batch: int) -> Tiled:
    """The stages that would not fit whole.

    Args:
        lq: size of stage 1's input.
        frame: size at which the diffusion works.
        options: completed. `tiles` "on" and "off" decide for all stages, "auto" compares `needs` with `memory_budget`, which is for
            the whole process on a CPU, and for the device's own memory elsewhere; None: `available`.
        batch: images at a time on a device.
    """
    if options.tiles != "auto":
        return Tiled(*4 * (options.tiles == "on",))
    budget = available() if options.memory_budget is None else parse_bytes(options.memory_budget)
    rgb = options.guidance_space == "rgb" and options.guidance_scale > 0
    needed = needs(model, lq, frame, batch, options.cfg != 1, rgb, options.reuse_depth or 0)
    return Tiled(**{stage: need > budget for stage, need in needed.items()})


def needs(
    model: Model, lq: Size, frame: Size, batch: int = 1, text: bool = False, rgb: bool = False, depth: int = 0
) -> dict[str, int]:
    """Bytes at the peak of each stage when it is not tiled: parameters, images and what the network holds at once.

    The numbers of maps were read from XLA's memory analysis (CPU, float32), where they are proportional to the pixels; MARGIN is
    on the safe side.

    Args:
        text: two network calls a step, with and without the prompt.
        rgb: guidance through the decoder, whose backward pass holds every map.
        depth: of the UNet's part that is computed while the rest is reused, which keeps a map a stage and a wider one; 0: no reuse.
    """
    auto, unet = model.nets["autoencoder"], model.nets["unet"]
    at_lq, at_frame = batch * np.prod(lq, dtype=float), batch * np.prod(frame, dtype=float)
    latent = at_frame / auto.downsampling_factor**2
    lean = auto.conv_implementation == "cpu"  # a residual block's sum takes the place of its input, see `Conv3x3`
    control = model.nets["control"]
    embedding = 2 * control.cond_channels[0] * at_frame if isinstance(control, ControlNet) else 0  # of the image, at its size
    backward = rgb * 10 * (auto.blocks + 1) * sum(c / 4**i for i, c in enumerate(auto.channels)) * at_frame
    kept = 2 * (2 + depth) if depth else 0
    maps = {
        "stage1": stage1_maps(model.nets["stage1"]) * at_lq,
        "encode": (2.4 if lean else 3.1) * auto.channels[0] * at_frame,
        "diffusion": (1 + text) * (18.3 + 256 / unet.head_dim + kept) * unet.channels[0] * latent + embedding + backward,
        "decode": (1.8 if lean else 3.6) * auto.channels[:2][-1] * at_frame,
    }
    return {stage: round(_held(model.params, at_frame) + MARGIN * 4 * numbers) for stage, numbers in maps.items()}


def stage1_maps(net: nn.Module) -> int | float:
    """Numbers that a stage 1 holds at once for a pixel of its input."""
    kind = type(net).__name__
    if kind == "RRDBNet":
        return 2 * net.features * net.scale**2
    if kind == "Untouched":
        return 3
    if kind == "SCUNet":
        return 9.5 * net.dim
    body = 16.3 * net.embed_dim / net.unshuffle**2
    return body if net.upsampler == "pixelshuffledirect" else max(body, 2 * net.features)


def _held(params: Mapping, pixels: float | np.floating) -> float:
    """Bytes that are there at every stage."""
    weights = sum(x.nbytes for x in jax.tree.leaves(params))
    return weights + (PROCESS + IMAGES * 12 * pixels if jax.default_backend() == "cpu" else 2 * 12 * pixels)


def available() -> int:
    """Bytes that this process may hold: on an accelerator its memory, on a CPU what is free and what the process has already, or
    the control group's limit where that is less."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    return int(stats["bytes_limit"]) if stats else min([_free(), *_limits()])


def _free() -> int:
    try:
        rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return 1024 * int(rows["MemAvailable"].split()[0]) + resident
    except (OSError, KeyError):  # not Linux
        pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
        return pages * os.sysconf("SC_PAGE_SIZE") // 2 if pages else 4 * 10**9


def _limits() -> list[int]:
    """Of the control group, versions 2 and 1."""
    files = [Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory/memory.limit_in_bytes")]
    texts = [file.read_text().strip() for file in files if file.is_file()]
    return [int(text) for text in texts if text.isdecimal()]
