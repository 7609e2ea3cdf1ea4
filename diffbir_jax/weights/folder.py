"""A model folder: `model.json` (each network's kind and sizes, how to sample) and one safetensors file a network."""

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy.typing import DTypeLike
from safetensors import SafetensorError

from diffbir_jax.atomic import write_whole
from diffbir_jax.errors import InputError
from diffbir_jax.types import Params
from diffbir_jax.weights.tensor_files import forget, map_tensors, write_tensors

MODULES = {
    "SwinIR": "swinir",
    "RRDBNet": "bsrnet",
    "SCUNet": "scunet",
    "UNet": "unet",
    "LAControlNet": "control",
    "ControlNet": "control",
    "AutoencoderKL": "autoencoder",
    "TextEncoder": "text_encoder",
}
WANTED = "give a model folder, as `python -m diffbir_jax.convert to-jax` writes it"
_NOT_SIZES = {"parent", "name", "dtype", "attention_implementation", "conv_implementation"}


def read_card(folder: Path) -> dict[str, Any]:
    """`model.json` of a folder: {"networks": {name: {"kind": …, sizes}}, "sampling": {…}}.

    Raises:
        InputError: there is none, or it is not JSON, or another program's.
    """
    path = Path(folder) / "model.json"
    try:
        card = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder} has no model.json; {WANTED}") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); convert the model again") from None
    networks = card.get("networks") if isinstance(card, dict) else None
    if not isinstance(networks, dict) or not all(isinstance(each, dict) for each in networks.values()):
        raise InputError(f"{path} describes no networks; {WANTED}")
    return card


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Writes `model.json` by atomic rename."""
    text = json.dumps(card, indent=1, sort_keys=True) + "\n"
    write_whole(Path(folder) / "model.json", lambda file: file.write_text(text))


def sizes(net: nn.Module) -> dict[str, Any]:
    """The JSON description of a network: its class and fields."""
    fields = {k: getattr(net, k) for k in net.__dataclass_fields__ if k not in _NOT_SIZES}
    return {"kind": type(net).__name__, **{k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}}


def network(description: Mapping[str, Any]) -> nn.Module:
    """The network that `sizes` described.

    Raises:
        InputError: an unknown kind or size.
    """
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in description.items() if k != "kind"}
    kind = description.get("kind")
    if kind not in MODULES:
        raise InputError(f"network kind {kind!r} is unknown; known are {', '.join(MODULES)}")
    cls = getattr(importlib.import_module(f"diffbir_jax.models.{MODULES[kind]}"), kind)
    try:
        return cls(**fields)
    except TypeError as error:
        raise InputError(f"the description of a {kind} does not fit: {error}") from None


def save_network(folder: Path, name: str, net: nn.Module, params: Params, dtype: DTypeLike | None = None) -> None:
    """Writes NAME.safetensors by atomic rename, and the network's entry in `model.json`.

    Keys are joined by "/", values are of `dtype`, None: as they are.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / f"{name}.safetensors", flatten_dict(params, sep="/"), dtype)
    card = read_card(folder) if (folder / "model.json").exists() else {"networks": {}}
    card["networks"][name] = sizes(net)
    write_card(folder, card)


def load_network(
    folder: Path, name: str, dtype: DTypeLike | None = None, put: Callable[[np.ndarray], Any] = np.asarray
) -> tuple[nn.Module, dict[str, Any]]:
    """A network and its parameters, of `dtype` (None: of the stored type), each passed through `put` as it is read.

    Parameters of the stored type are views of the file, read from disk where and when they are used; `jax.device_put` on a CPU
    leaves them there. Of another type, no more than one parameter is held twice.

    Raises:
        InputError: the folder lacks it, or the file is damaged.
    """
    folder = Path(folder)
    card = read_card(folder)
    if name not in card["networks"]:
        raise InputError(f"{folder} holds no {name!r} network; it holds {', '.join(sorted(card['networks'])) or 'none'}")
    path = folder / f"{name}.safetensors"
    try:
        mapped = map_tensors(path)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); copy or convert the model again") from None
    flat = {}
    for key, x in mapped.items():
        flat[key] = put(np.asarray(x, dtype))
        forget(x)
    return network(card["networks"][name]), unflatten_dict(flat, sep="/")
