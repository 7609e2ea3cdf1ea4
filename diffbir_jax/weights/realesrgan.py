"""Real-ESRGAN x4plus (Wang et al. 2021), a second opinion beside a model's own stage 1: real weights, as ncnn stores them."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy.typing import DTypeLike

from diffbir_jax.errors import InputError
from diffbir_jax.home import home
from diffbir_jax.models.bsrnet import RRDBNet
from diffbir_jax.packages import Archives
from diffbir_jax.weights.tables.bsrnet import rows
from diffbir_jax.weights.torch_format import Row, from_torch

NAME = "REALESRGAN_X4PLUS_UP4X.bin"
HALVES = 0x01306B47  # the tag before weights of 16 bits


def load_realesrgan(
    dtype: DTypeLike = np.float32, put: Callable[[np.ndarray], Any] = np.asarray, archives: Archives | None = None
) -> tuple[RRDBNet, dict[str, Any]]:
    """The network, which enlarges by 4, and its parameters, of `dtype`, each passed through `put`.

    Args:
        archives: where its package lies, if not installed; None: `metrics` in DIFFBIR_JAX_HOME.

    Raises:
        InputError: the package is not there, or not what it should be.
    """
    data = (archives or Archives(home() / "metrics")).read(NAME)
    params = flatten_dict(read_rrdbnet(data, RRDBNet()), sep="/")
    return RRDBNet(), unflatten_dict({key: put(np.ascontiguousarray(x, dtype)) for key, x in params.items()}, sep="/")


def read_rrdbnet(data: bytes, net: RRDBNet) -> dict[str, Any]:
    """The parameters of an RRDBNet from ncnn's file of weights: its convolutions in the order in which they are computed.

    Of each: the tag, the kernel (float16, OIHW, padded to four bytes) and the bias (float32).

    Raises:
        InputError: another tag, or less or more data than the network takes.
    """
    shapes = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]
    flat, state, at = flatten_dict(shapes, sep="/"), {}, 0
    for row in sorted(rows(net), key=_order):
        height, width, inputs, outputs = flat[f"{row.ours}/kernel"].shape
        count = height * width * inputs * outputs
        size = 4 + 2 * count + 2 * count % 4
        if int.from_bytes(data[at : at + 4], "little") != HALVES or len(data) < at + size + 4 * outputs:
            raise InputError(f"{NAME} does not hold {row.theirs} at byte {at}: it is damaged, or another network's")
        kernel = np.frombuffer(data, "<f2", count, at + 4).reshape(outputs, inputs, height, width)
        state |= {f"{row.theirs}.weight": kernel, f"{row.theirs}.bias": np.frombuffer(data, "<f4", outputs, at + size)}
        at += size + 4 * outputs
    if at != len(data):
        raise InputError(f"{NAME} has {len(data) - at} bytes more than its network takes: it is another network's")
    return from_torch(state, rows(net), shapes)[0]


def _order(row: Row) -> int:
    """The place of a convolution in the forward pass; those of one kind are in order in the table."""
    places = ("conv_first", "blocks", "conv_body", "upsample", "conv_hr", "conv_last")
    return next(i for i, start in enumerate(places) if row.ours.startswith(start))
