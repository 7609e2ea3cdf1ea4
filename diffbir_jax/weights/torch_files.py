"""Weights as PyTorch programs store them: .safetensors, and the pickles .pth, .pt and .ckpt, which may not run code."""

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from diffbir_jax.atomic import write_whole
from diffbir_jax.errors import InputError

PICKLES = (".pth", ".pt", ".ckpt")
WRAPPERS = ("state_dict", "params_ema", "params")


def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """A checkpoint's tensors by key, without wrappers (`state_dict`, `params_ema`, `params`) and the prefix `module.`.

    Large files are mapped into memory where their format allows; the arrays are to be read only.

    Raises:
        InputError: no such file, not a checkpoint, truncated, a pickle that needs code run, or PyTorch is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file; give a checkpoint ({', '.join(('.safetensors', *PICKLES))})")
    if path.suffix == ".safetensors":
        state = _read_safetensors(path)
    elif path.suffix in PICKLES:
        state = _read_pickle(path)
    else:
        raise InputError(f"{path} is no checkpoint by its name; known are {', '.join(('.safetensors', *PICKLES))}")
    if not state:
        raise InputError(f"{path} holds no tensors by name; give a file with a network's state_dict")
    return {key.removeprefix("module."): value for key, value in state.items()}


def write_state(path: str | Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes a state as .safetensors, or as a .pth that `torch.load(weights_only=True)` reads; by atomic rename.

    Raises:
        InputError: it cannot be written, or PyTorch is missing.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        dense = {key: np.asarray(value, order="C") for key, value in state.items()}
        write_whole(path, lambda file: save_file(dense, file, metadata={"format": "pt"}))
    else:
        torch = require_torch(path.name)
        write_whole(path, lambda file: torch.save({key: _tensor(torch, value) for key, value in state.items()}, file))


def require_torch(what: str) -> ModuleType:
    """PyTorch, which only pickles need.

    Raises:
        InputError: it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise InputError(f"{what} needs PyTorch: `pip install diffbir_jax[torch]`, or use safetensors instead") from None
    return torch


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError, TypeError, AttributeError, KeyError) as error:
        raise InputError(f"{path} cannot be read as safetensors ({_first_line(error)}); download it again") from None


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    torch = require_torch(path.name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # whatever the bytes provoke
        raise InputError(_why_unread(path, error)) from None
    while wrapped := [held[w] for w in WRAPPERS if isinstance(held, Mapping) and isinstance(held.get(w), Mapping)]:
        held = wrapped[0]
    items = held.items() if isinstance(held, Mapping) else ()
    try:
        return {key: _array(torch, x) for key, x in items if isinstance(key, str) and isinstance(x, torch.Tensor)}
    except (TypeError, RuntimeError) as error:
        raise InputError(f"{path} holds tensors that are no plain arrays ({_first_line(error)}); save them as float32") from None


def _why_unread(path: Path, error: Exception) -> str:
    if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return (
            f"{path} is refused: it holds more than weights ({code[1]}), and loading it could run code; save the tensors alone "
            "where you trust it (torch.save(model.state_dict(), FILE)), or give safetensors"
        )
    return f"{path} is not a whole PyTorch checkpoint ({type(error).__name__}); download it again"


def _array(torch: ModuleType, x: Any) -> np.ndarray:
    if x.dtype == torch.bfloat16:
        return x.detach().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return x.detach().numpy()


def _tensor(torch: ModuleType, x: np.ndarray) -> Any:
    x = np.array(x, order="C")
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
