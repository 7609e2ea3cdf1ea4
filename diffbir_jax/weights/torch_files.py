"""Weights as PyTorch programs store them: .safetensors, and the pickles .pth, .pt and .ckpt, which may not run code."""

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError

from diffbir_jax.atomic import write_whole
from diffbir_jax.errors import InputError
from diffbir_jax.weights.tensor_files import forget, map_tensors, write_tensors

PICKLES = (".pth", ".pt", ".ckpt")
WRAPPERS = ("state_dict", "params_ema", "params")


class Checkpoint(NamedTuple):
    """A file's tensors, mapped into memory where the format allows: to be read only.

    Attributes:
        tensors: key -> array, without `wrapper` and `prefix`.
        wrapper: what the tensors were an entry of: "state_dict", "params_ema", "params", or "".
        prefix: "module." where every key began with it, or "".
        others: what else lay beside the wrapper: epochs, optimizers.
    """

    tensors: dict[str, np.ndarray]
    wrapper: str = ""
    prefix: str = ""
    others: tuple[str, ...] = ()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads .safetensors, .pth, .pt or .ckpt.

    Raises:
        InputError: no such file, not a checkpoint, truncated, a pickle that needs code run, or PyTorch is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file; give a checkpoint ({', '.join(('.safetensors', *PICKLES))})")
    if path.suffix == ".safetensors":
        held = Checkpoint(_read_safetensors(path))
    elif path.suffix in PICKLES:
        held = _read_pickle(path)
    else:
        raise InputError(f"{path} is no checkpoint by its name; known are {', '.join(('.safetensors', *PICKLES))}")
    if not held.tensors:
        raise InputError(f"{path} holds no tensors by name; give a file with a network's state_dict")
    prefix = "module." if all(key.startswith("module.") for key in held.tensors) else ""
    return held._replace(tensors={key.removeprefix(prefix): x for key, x in held.tensors.items()}, prefix=prefix)


def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of `read_checkpoint`."""
    return read_checkpoint(path).tensors


def write_state(path: str | Path, state: Mapping[str, np.ndarray], wrapper: str = "") -> None:
    """Writes a state as .safetensors, or as a pickle that `torch.load(weights_only=True)` reads; by atomic rename.

    Args:
        wrapper: the entry of the pickle to put it into; "": none.

    Raises:
        InputError: it cannot be written, or PyTorch is missing.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        write_tensors(path, state, metadata={"format": "pt"})
        return
    torch = require_torch(path.name)
    held = {key: _tensor(torch, value) for key, value in state.items()}
    write_whole(path, lambda file: torch.save({wrapper: held} if wrapper else held, file))


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
        return map_tensors(path)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path} cannot be read as safetensors ({_first_line(error)}); download it again") from None


def _read_pickle(path: Path) -> Checkpoint:
    torch = require_torch(path.name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # whatever the bytes provoke
        raise InputError(_why_unread(path, error)) from None
    wrapper, others = "", []
    while inner := [w for w in WRAPPERS if isinstance(held, Mapping) and isinstance(held.get(w), Mapping)]:
        wrapper, others = inner[0], [*others, *(str(key) for key in held if key != inner[0])]
        held = held[wrapper]
    items = held.items() if isinstance(held, Mapping) else ()
    try:
        tensors = {key: _array(torch, x) for key, x in items if isinstance(key, str) and isinstance(x, torch.Tensor)}
    except (TypeError, RuntimeError) as error:
        raise InputError(f"{path} holds tensors that are no plain arrays ({_first_line(error)}); save them as float32") from None
    return Checkpoint(tensors, wrapper, others=(*others, *(str(key) for key, _ in items if key not in tensors)))


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
    mapped, x = x, np.require(x, requirements="CW")  # a dense copy, unless it is one
    forget(mapped)
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
