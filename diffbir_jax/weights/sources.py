"""Released files and the networks in them: apart on the way in, put together again on the way out."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from diffbir_jax.errors import InputError
from diffbir_jax.models.swinir import SwinIR
from diffbir_jax.types import Params
from diffbir_jax.weights import released
from diffbir_jax.weights.recognition import State, recognise, stranger
from diffbir_jax.weights.tables import diffusers
from diffbir_jax.weights.torch_files import read_checkpoint
from diffbir_jax.weights.torch_format import to_torch

ROLES = {
    "SwinIR": "stage1", "RRDBNet": "stage1", "SCUNet": "stage1", "UNet": "unet", "LAControlNet": "control",
    "AutoencoderKL": "autoencoder", "TextEncoder": "text_encoder",
}  # fmt: skip
PREFIXES = {
    "model.diffusion_model.": "unet", "first_stage_model.": "autoencoder", "cond_stage_model.": "text_encoder",
    "control_model.": "control", "preprocess_model.": "stage1",
}  # fmt: skip
AUTOENCODER, CONDITION = "first_stage_model.", "cond_encoder."  # version 1 has a copy of the encoder, for the condition
COPIED = ("encoder.", "quant_conv.")


class Part(NamedTuple):
    """A network of a source; `place` is how it lies there: `prefix`, and where they matter `image_size` and `style`."""

    net: nn.Module
    params: Params
    place: dict[str, Any]

    @property
    def role(self) -> str:
        return ROLES[type(self.net).__name__]


@dataclass(frozen=True)
class Source:
    """A released file.

    Attributes:
        file: its name; in a diffusers folder with the subfolder's.
        facts: `sha256`, `bytes`, `layout` ("original", "full": version 1's everything, "diffusers"), `wrapper`, `module` (the
            prefix or ""), `zero_snr` (whether its schedule ends in pure noise).
        parts: its networks.
        extras: tensors that no network has a place for, by their whole keys.
        others: what it holds besides tensors by name.
    """

    file: str
    facts: dict[str, Any]
    parts: list[Part]
    extras: dict[str, np.ndarray]
    others: tuple[str, ...] = ()


def read_file(path: Path, head_dim: int | None = None) -> Source:
    """A released file: one network, Stable Diffusion's three, or version 1's everything.

    Raises:
        InputError: the file cannot be read, is of no known network, or lacks something; key, and what it looks like, are named.
    """
    held = read_checkpoint(path)
    groups, extras = _split(held.tensors)
    full = "model.diffusion_model." in groups and (CONDITION in groups or "control_model." in groups)
    if CONDITION in groups and AUTOENCODER in groups:
        groups[AUTOENCODER], differing = _with_condition(groups[AUTOENCODER], groups.pop(CONDITION))
        extras |= differing
    parts = []
    for prefix, state in groups.items():
        try:
            part, unused = read_network(state, prefix, head_dim)
        except InputError as error:
            within = f", {prefix}*" if prefix else ""
            raise InputError(f"{path}{within}: {error}{stranger(held.tensors)}") from None
        parts.append(part)
        extras |= {prefix + key: state[key] for key in unused}
    facts = {
        "layout": "full" if full else "original", "wrapper": held.wrapper, "module": held.prefix, "zero_snr": _zero_snr(extras),
        **fingerprint(path),
    }  # fmt: skip
    return Source(path.name, facts, parts, extras, held.others)


def read_network(state: State, prefix: str, head_dim: int | None) -> tuple[Part, list[str]]:
    """The network of a state, and the keys that it has no use for."""
    net = recognise(state, head_dim)
    if prefix and ROLES[type(net).__name__] != PREFIXES[prefix]:
        raise InputError(f"a {type(net).__name__} where the {PREFIXES[prefix]} belongs")
    params, unused = released.ours(net, state)
    size = {"image_size": released.image_size(net, state)} if isinstance(net, SwinIR) else {}
    return Part(net, params, {"prefix": prefix, **size}), unused


def _split(tensors: State) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """The states by prefix, the prefix taken off, and what has none of the prefixes."""
    groups, rest = {}, {}
    for key, x in tensors.items():
        prefix = next((p for p in (*PREFIXES, CONDITION) if key.startswith(p)), None)
        if prefix is None:
            rest[key] = x
        else:
            groups.setdefault(prefix, {})[key.removeprefix(prefix)] = x
    return (groups, rest) if groups else ({"": rest}, {})


def _with_condition(autoencoder: State, condition: State) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The autoencoder with the condition's encoder, the one that restoring uses, and what of its own encoder differs from that."""
    own = {key: x for key, x in autoencoder.items() if key.startswith(COPIED)}
    differing = {AUTOENCODER + key: x for key, x in own.items() if key not in condition or not _same(x, condition[key])}
    return {key: x for key, x in autoencoder.items() if key not in own} | condition, differing


def _zero_snr(extras: State) -> bool:
    """Whether the schedule beside the networks ends in pure noise."""
    abar = extras.get("alphas_cumprod")
    return abar is not None and abar.size > 0 and float(np.min(abar)) < 1e-6


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def fingerprint(path: Path) -> dict[str, Any]:
    """`sha256` and `bytes` of a file."""
    with open(path, "rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def state_of(facts: Mapping[str, Any], networks: Mapping[str, tuple[nn.Module, Params]], extras: State) -> dict[str, np.ndarray]:
    """A source's state, put together again.

    Args:
        facts: the source's, and `networks`: name -> place.
        networks: name -> network and parameters.
        extras: what was kept of it.
    """
    state = {}
    for name, place in facts["networks"].items():
        state |= {place["prefix"] + key: x for key, x in _network_state(facts["layout"], place, *networks[name]).items()}
    if facts["layout"] == "full":
        copied = tuple(AUTOENCODER + part for part in COPIED)
        state |= {key.replace(AUTOENCODER, CONDITION, 1): x for key, x in state.items() if key.startswith(copied)}
        state = released.schedule_buffers() | state
    return {facts["module"] + key: x for key, x in (state | dict(extras)).items()}


def _network_state(layout: str, place: Mapping[str, Any], net: nn.Module, params: Params) -> dict[str, np.ndarray]:
    if layout == "diffusers":
        params = diffusers.without_last_layer(net, params)
        return to_torch(params, diffusers.rows(params, place.get("style", [])))
    return released.released(net, params, place.get("image_size", released.IMAGE_SIZE))
