"""safetensors files as memory maps: reading copies nothing, writing holds one tensor at a time."""

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike
from safetensors import safe_open

from diffbir_jax.atomic import write_whole

TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "BOOL": np.bool_,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
}  # fmt: skip
_NAMES = {np.dtype(v): k for k, v in TYPES.items()}
_LINE = 64  # bytes: JAX on a CPU uses arrays that begin at a multiple of it where they lie


def map_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file: read-only views of the file, read from disk where and when they are used.

    Raises:
        SafetensorError, OSError: not a whole safetensors file.
        KeyError: a type that NumPy lacks.
    """
    with safe_open(path, framework="numpy"):
        pass  # checks the header and the length
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    data = np.memmap(path, np.uint8, "r").view(np.ndarray)[8 + length :]
    header.pop("__metadata__", None)
    return {key: _view(data, entry) for key, entry in header.items()}


def _view(data: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    begin, end = entry["data_offsets"]
    return data[begin:end].view(TYPES[entry["dtype"]]).reshape(entry["shape"])


def write_tensors(
    path: Path, tensors: Mapping[str, Any], dtype: DTypeLike | None = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes arrays (NumPy's or JAX's, views as well), by atomic rename; one at a time is made dense and of `dtype`.

    Raises:
        InputError: the file cannot be written.
    """
    size = {k: x.size * np.dtype(dtype or x.dtype).itemsize for k, x in tensors.items()}
    keys = sorted(tensors, key=lambda k: (size[k] % _LINE != 0, k))  # the odd sizes last: the others stay on lines
    header, end = {"__metadata__": dict(metadata)} if metadata else {}, 0
    for key in keys:
        x, begin, end = tensors[key], end, end + size[key]
        header[key] = {"dtype": _NAMES[np.dtype(dtype or x.dtype)], "shape": list(x.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _LINE)

    def write(place: Path) -> None:
        with open(place, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for key in keys:
                file.write(np.ascontiguousarray(tensors[key], dtype).reshape(-1).view(np.uint8))
                forget(tensors[key])

    write_whole(path, write)


def forget(x: Any) -> None:
    """Lets go of the pages of a mapped file that `x` is a view of: they are read again if they are used again."""
    while isinstance(x, np.ndarray):
        x = x.base
    if isinstance(x, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        x.madvise(mmap.MADV_DONTNEED)
