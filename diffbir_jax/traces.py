"""Replaying and recording a restoration, for those who port or compare: safetensors, NCHW as PyTorch has it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from diffbir_jax.atomic import write_whole
from diffbir_jax.errors import InputError
from diffbir_jax.programs import Draws


def read_draws(path: str | Path) -> Draws:
    """Noise to replay: `x_T` [1, c, h, w], the start, and `noise` [draws, 1, c, h, w], standard normal, as many a step as
    the sampler takes.

    Raises:
        InputError: no such file, not safetensors, or an array is missing or of another rank.
    """
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"the noise {path} cannot be read ({error}); give a safetensors file with x_T and noise") from None
    for name, rank in (("x_T", 4), ("noise", 5)):
        if name not in arrays or arrays[name].ndim != rank:
            held = ", ".join(f"{k} {list(v.shape)}" for k, v in arrays.items())
            raise InputError(f"the noise {path} holds {held or 'nothing'}; give x_T [1, c, h, w] and noise [draws, 1, c, h, w]")
    start, steps = (np.moveaxis(arrays[name], -3, -1).astype(np.float32) for name in ("x_T", "noise"))
    return Draws(start, steps.swapaxes(0, 1))


def write_trace(path: Path, trace: Mapping[str, np.ndarray]) -> None:
    """Writes what a restoration kept, images and latents with their channels first, by atomic rename."""
    arrays = {k: v if k == "context" else np.moveaxis(v, -1, -3) for k, v in trace.items()}
    write_whole(path, lambda file: save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, file))
