"""Parameters to and from the released PyTorch layout: walks a table of module names, in either direction.

A table (one file a network in `tables/`) is a function of the linen module that yields `Row`s; the tensors of a module follow by
rule: `kernel` (HWIO or IO), `scale` and `embedding` are PyTorch's `weight` (OIHW or OI), `bias` is `bias`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from diffbir_jax.errors import InputError
from diffbir_jax.types import Params

_NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


@dataclass(frozen=True)
class Row:
    """One module's place in both layouts.

    Attributes:
        ours: path of a linen module, for example "mid_block/resnets_0/conv1"; for "stacked" rows several, joined by "+";
            for "array" rows the path of a bare parameter.
        theirs: the PyTorch prefix, or for "array" the whole key.
        kind: "module" by the rule above; "pointwise": our Dense is their 1x1 convolution; "transposed": a transposed
            convolution, IOHW there and mirrored here; "stacked": our modules' outputs are one tensor there, along its first axis,
            its names joined by "_" (`in_proj_weight`); "array": a bare parameter, same shape in both.
    """

    ours: str
    theirs: str
    kind: Literal["module", "pointwise", "transposed", "stacked", "array"] = "module"

    def key(self, leaf: str) -> str:
        if self.kind == "array":
            return self.theirs
        return f"{self.theirs}{'_' if self.kind == 'stacked' else '.'}{_NAMES.get(leaf, leaf)}"


def _to_torch(kind: str, leaf: str, x: np.ndarray) -> np.ndarray:
    if leaf != "kernel" or kind == "array":
        return x
    if kind == "pointwise":
        return x.T[:, :, None, None]
    if kind == "transposed":
        return x[::-1, ::-1].transpose(2, 3, 0, 1)
    return x.T if x.ndim == 2 else x.transpose(3, 2, 0, 1)


def _to_ours(kind: str, leaf: str, x: np.ndarray) -> np.ndarray:
    if leaf != "kernel" or kind == "array":
        return x
    if kind == "pointwise":
        return x[:, :, 0, 0].T
    if kind == "transposed":
        return x.transpose(2, 3, 0, 1)[::-1, ::-1]
    return x.T if x.ndim == 2 else x.transpose(2, 3, 1, 0)


def _places(rows: Iterable[Row]) -> dict[str, tuple[Row, int, int]]:
    """Our path -> (row, which of its parts, how many)."""
    return {part: (row, i, row.ours.count("+") + 1) for row in rows for i, part in enumerate(row.ours.split("+"))}


def _locate(places: dict[str, tuple[Row, int, int]], path: str) -> tuple[Row, int, int, str]:
    """Row, part, parts and leaf name of one of our parameters."""
    module, _, leaf = path.rpartition("/")
    row, part, parts = places[path] if path in places else places[module]
    return row, part, parts, leaf


def from_torch(state: Mapping[str, np.ndarray], rows: Iterable[Row], shapes: Params) -> tuple[dict[str, Any], list[str]]:
    """Our parameters from a PyTorch state.

    Args:
        state: PyTorch key -> array.
        rows: the network's table.
        shapes: the parameter tree as `jax.eval_shape` gives it.

    Returns:
        The parameters (views where possible), and the keys of `state` that no parameter needs.

    Raises:
        InputError: a key is missing or has another shape; it is named.
    """
    places, params, used = _places(rows), {}, set()
    for path, want in flatten_dict(shapes, sep="/").items():
        row, part, parts, leaf = _locate(places, path)
        key = row.key(leaf)
        if key not in state:
            raise InputError(f"the weights lack {key!r}; give the whole checkpoint of this network")
        theirs = np.asarray(state[key])
        if parts > 1 and len(theirs) % parts == 0:
            theirs = np.split(theirs, parts)[part]
        wanted = _to_torch(row.kind, leaf, np.broadcast_to(np.int8(0), want.shape)).shape
        if theirs.shape != wanted:
            raise InputError(f"{key!r} has shape {list(theirs.shape)}, this network's sizes need {list(wanted)}: check the sizes")
        params[path] = _to_ours(row.kind, leaf, theirs)
        used.add(key)
    return unflatten_dict(params, sep="/"), sorted(set(state) - used)


def to_torch(params: Params, rows: Iterable[Row]) -> dict[str, np.ndarray]:
    """The PyTorch state of our parameters, the inverse of `from_torch` bit for bit: views of them, but for "stacked" tensors."""
    places, parts_of = _places(rows), {}
    for path, value in flatten_dict(params, sep="/").items():
        row, part, _, leaf = _locate(places, path)
        parts_of.setdefault(row.key(leaf), {})[part] = _to_torch(row.kind, leaf, np.asarray(value))
    return {
        key: np.concatenate([v for _, v in sorted(parts.items())]) if len(parts) > 1 else parts[0]
        for key, parts in parts_of.items()
    }
