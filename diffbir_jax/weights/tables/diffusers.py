"""Keys of the diffusers folder: our names are its Flax names, so one rule gives them; styles are what differs between its files."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from flax import linen as nn
from flax.traverse_util import flatten_dict

from diffbir_jax.models.text_encoder import TextEncoder
from diffbir_jax.types import Params
from diffbir_jax.weights.torch_format import Row

OLD_ATTENTION, CONV_PROJECTIONS = "old_attention", "conv_projections"
_NEW_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def styles(state: Mapping[str, Any]) -> list[str]:
    """How a file differs from what today's diffusers writes: attention's names of before 0.15, 1x1 convolutions as projections."""
    old = any(key.endswith("attentions.0.query.weight") for key in state)
    conv = any(key.endswith(".proj_in.weight") and x.ndim == 4 for key, x in state.items())
    return [OLD_ATTENTION] * old + [CONV_PROJECTIONS] * conv


def rows(shapes: Params, style: list[str]) -> Iterator[Row]:
    """The table of any network: down_blocks_0/resnets_1/conv1 -> down_blocks.0.resnets.1.conv1; `linear_1` is a name."""
    for module in {path.rpartition("/")[0] for path in flatten_dict(shapes, sep="/")}:
        parts = module.removeprefix("text_model/").split("/")
        names = {} if OLD_ATTENTION in style else _NEW_NAMES
        theirs = ".".join(names.get(part, re.sub(r"(?<!linear)_(\d+)$", r".\1", part)) for part in parts)
        pointwise = CONV_PROJECTIONS in style and parts[-1] in ("proj_in", "proj_out")
        yield Row(module, theirs, "pointwise" if pointwise else "module")


def without_last_layer(net: nn.Module, tree: Params) -> Params:
    """A text tower's parameters as diffusers has them; any other network's as they are."""
    if not isinstance(net, TextEncoder):
        return tree
    tower = dict(tree["text_model"])
    layers = {k: v for k, v in tower["encoder"]["layers"].items() if k != str(net.layers - 1)}
    return {"text_model": tower | {"encoder": {"layers": layers}}}
