"""The formats in which packages store weights, read as data: no code of theirs runs, and nothing but h5py is asked for."""

import io
import json
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np

from diffbir_jax.packages import Unavailable

DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


def arrays(data: bytes) -> dict[str, np.ndarray]:
    """A .npz file's arrays."""
    with np.load(io.BytesIO(data), allow_pickle=False) as held:
        return dict(held)


class _Plain(pickle.Unpickler):
    """Builds lists, dicts, numbers and texts, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is no plain data")


def plain_pickle(data: bytes) -> Any:
    """A pickle of lists, dicts, numbers and texts.

    Raises:
        pickle.UnpicklingError: it asks for anything else.
    """
    return _Plain(io.BytesIO(data)).load()


class _Tensors(pickle.Unpickler):
    """PyTorch's pickles before 1.6: a tensor becomes (storage's key, offset, shape, strides), a storage its (type, key)."""

    known = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides),
    }

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in DTYPES:
            return name
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"{module}.{name} is no tensor")
        return self.known[module, name]

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        _, kind, key, *_ = pid
        return kind, key


def torch_state(data: bytes) -> dict[str, np.ndarray]:
    """A state_dict of a .pth file as PyTorch wrote it before 1.6.

    Raises:
        pickle.UnpicklingError: it holds anything but tensors by name.
    """
    file = io.BytesIO(data)
    _magic, _protocol, _machine, state, keys = (_Tensors(file).load() for _ in range(5))
    kinds = {key: kind for (kind, key), *_ in state.values()}
    storages = {}
    for key in keys:
        count, dtype = int.from_bytes(file.read(8), "little"), DTYPES[kinds[key]]
        storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    return {name: _view(storages[key], *place) for name, ((_, key), *place) in state.items()}


def _view(storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, [storage.itemsize * n for n in strides], writeable=False)


def keras_weights(data: bytes) -> dict[str, np.ndarray]:
    """A Keras .weights.h5 file: "block1/layers/conv2d/vars/0" -> array.

    Raises:
        Unavailable: h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise Unavailable("needs h5py: pip install 'diffbir_jax[measure]'") from None
    found = {}
    with h5py.File(io.BytesIO(data)) as file:
        file.visititems(lambda name, held: found.update({name: held[()]}) if isinstance(held, h5py.Dataset) else None)
    return found


def tfjs_weights(manifest: bytes, data: bytes) -> dict[str, np.ndarray]:
    """TensorFlow.js weights: float32, or bytes with value = byte * scale + min."""
    found, at = {}, 0
    for row in (row for group in json.loads(manifest) for row in group["weights"]):
        code = row.get("quantization", {"dtype": "float32", "scale": 1.0, "min": 0.0})
        stored = np.frombuffer(data, np.dtype(code["dtype"]).newbyteorder("<"), int(np.prod(row["shape"])), at)
        found[row["name"]] = (stored * np.float64(code["scale"]) + code["min"]).astype(np.float32).reshape(row["shape"])
        at += stored.nbytes
    return found
