import collections
import io
import json
import pickle

import numpy as np
import pytest

from diffbir_jax.metrics import stored


def test_pickles_may_not_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    assert stored.plain_pickle(pickle.dumps({"min_": [1.5, 2], "name": "x"})) == {"min_": [1.5, 2], "name": "x"}
    for read in (stored.plain_pickle, lambda data: stored.torch_state(data * 5)):
        with pytest.raises(pickle.UnpicklingError):
            read(pickle.dumps(Evil()))
    assert not (tmp_path / "ran").exists()


def test_quantised_weights_are_bytes_times_scale_plus_min():
    rows = [
        {"name": "a", "shape": [2, 2], "dtype": "float32", "quantization": {"dtype": "uint8", "scale": 0.5, "min": -1}},
        {"name": "b", "shape": [1], "dtype": "float32"},
    ]
    data = bytes([0, 1, 2, 255]) + np.float32(3.25).tobytes()
    found = stored.tfjs_weights(json.dumps([{"paths": ["x.bin"], "weights": rows}]).encode(), data)
    assert found["a"].tolist() == [[-1, -0.5], [0, 126.5]] and found["b"].tolist() == [3.25]


def test_old_pytorch_pickles_are_read_without_pytorch():
    """The format by hand: five pickles, then every storage as a count and its numbers."""

    class Writer(pickle.Pickler):
        def persistent_id(self, value):
            return value if isinstance(value, tuple) and value[:1] == ("storage",) else None

    class Tensor:
        def __reduce__(self):
            return _rebuild, (("storage", "FloatStorage", "7", "cpu", 6, None), 1, (2, 2), (2, 1))

    file = io.BytesIO()
    for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(each, file, protocol=2)
    state = collections.OrderedDict(w=Tensor())
    inner = io.BytesIO()
    Writer(inner, protocol=2).dump(state)
    ours = f"c{_rebuild.__module__}\n_rebuild\n".encode()
    assert ours in inner.getvalue()
    file.write(inner.getvalue().replace(ours, b"ctorch._utils\n_rebuild_tensor_v2\n"))
    pickle.dump(["7"], file, protocol=2)
    file.write((6).to_bytes(8, "little") + np.arange(6, dtype="<f4").tobytes())
    assert stored.torch_state(file.getvalue())["w"].tolist() == [[1, 2], [3, 4]]


def _rebuild(*_):
    raise AssertionError("only its name is written")
