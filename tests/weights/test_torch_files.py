import argparse
import builtins
import pickle
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffbir_jax.errors import InputError
from diffbir_jax.weights.torch_files import read_state, write_state

STATE = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1.5, -2], np.float16), "n": np.array(7, np.int64)}


def same(got, want):
    return got.keys() == want.keys() and all(
        got[k].dtype == v.dtype and got[k].shape == v.shape and got[k].tobytes() == v.tobytes() for k, v in want.items()
    )


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def tensors(torch, state):
    return {k: torch.from_numpy(np.array(v)) for k, v in state.items()}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_what_is_written_is_read(tmp_path, suffix):
    if suffix == ".pth":
        pytest.importorskip("torch")
    state = STATE | {"half": np.array([[1, 3.140625], [np.inf, -0.0]], ml_dtypes.bfloat16)}
    write_state(tmp_path / f"w{suffix}", state)
    assert same(read_state(tmp_path / f"w{suffix}"), state)
    assert [p.name for p in tmp_path.iterdir()] == [f"w{suffix}"]


def test_what_is_written_loads_in_pytorch(tmp_path, torch):
    write_state(tmp_path / "w.pth", {"x": np.array([1.5], ml_dtypes.bfloat16), "y": STATE["a.weight"].T})
    loaded = torch.load(tmp_path / "w.pth", weights_only=True)
    assert loaded["x"].dtype == torch.bfloat16 and loaded["x"].item() == 1.5
    assert loaded["y"].is_contiguous() and loaded["y"].shape == (3, 2)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [
    lambda s: s,
    lambda s: {"state_dict": s, "epoch": 3, "callbacks": {"x": None}},
    lambda s: {"params": {k: 0 * v for k, v in s.items()}, "params_ema": s},
    lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
])  # fmt: skip
def test_wrappers_are_taken_off(tmp_path, torch, suffix, zipped, wrap):
    path = tmp_path / f"w{suffix}"
    torch.save(wrap(tensors(torch, STATE)), path, _use_new_zipfile_serialization=zipped)
    assert same(read_state(path), STATE)


def test_parameters_and_bfloat16_of_pytorch(tmp_path, torch):
    torch.save({"p": torch.nn.Parameter(torch.ones(2, 2).T), "h": torch.tensor([0.1], dtype=torch.bfloat16)}, tmp_path / "w.pth")
    state = read_state(tmp_path / "w.pth")
    assert state["p"].tolist() == [[1, 1], [1, 1]]
    assert state["h"].dtype == ml_dtypes.bfloat16 and float(state["h"][0]) == pytest.approx(0.1, rel=2**-8)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", ["zip", "legacy", "pickle"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, torch, save):
    trap, path = tmp_path / "trap", tmp_path / "w.ckpt"
    held = {"state_dict": {**tensors(torch, STATE), "x": Malicious(trap)}}
    if save == "pickle":
        path.write_bytes(pickle.dumps({"x": Malicious(trap)}, protocol=2))
    else:
        torch.save(held, path, _use_new_zipfile_serialization=save == "zip")
    with pytest.raises(InputError, match="is refused: it holds more than weights .*safetensors") as error:
        read_state(path)
    assert not trap.exists() and "\n" not in str(error.value)


def test_what_needs_other_classes_is_refused_by_name(tmp_path, torch):
    torch.save({"state_dict": tensors(torch, STATE), "hparams": argparse.Namespace(lr=1)}, tmp_path / "w.ckpt")
    with pytest.raises(InputError, match="argparse.Namespace.*torch.save"):
        read_state(tmp_path / "w.ckpt")


def test_tensors_that_are_no_arrays_are_refused(tmp_path, torch):
    torch.save({"s": torch.ones(2).to_sparse()}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="no plain arrays"):
        read_state(tmp_path / "w.pth")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_truncated_pickle_is_one_line(tmp_path, torch, zipped, part):
    path = tmp_path / "w.pth"
    torch.save({"x": torch.ones(1000)}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(InputError, match="w.pth is not a whole PyTorch checkpoint") as error:
        read_state(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"hello, this is text", bytes(range(256)), b"\x80\x04\x95"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_no_checkpoint_is_one_line(tmp_path, suffix, content):
    if suffix == ".pth":
        pytest.importorskip("torch")
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match="download it again") as error:
        read_state(path)
    assert "\n" not in str(error.value)


def test_truncated_safetensors(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(STATE, path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match="w.safetensors cannot be read as safetensors"):
        read_state(path)


@pytest.mark.parametrize("held", [[1, 2], {}, {"a": 3}, {"state_dict": {"a": None}}])
def test_a_file_without_tensors(tmp_path, torch, held):
    torch.save(held, tmp_path / "w.pth")
    with pytest.raises(InputError, match="holds no tensors"):
        read_state(tmp_path / "w.pth")


def test_wrong_names(tmp_path):
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(InputError, match="known are .safetensors, .pth"):
        read_state(tmp_path / "w.onnx")
    for missing in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(InputError, match="is not a file"):
            read_state(missing)


def test_without_pytorch_safetensors_still_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "w.pth").write_bytes(b"x")
    with pytest.raises(InputError, match=r"pip install diffbir_jax\[torch\].*safetensors"):
        read_state(tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"pip install diffbir_jax\[torch\]"):
        write_state(tmp_path / "v.pth", STATE)
    write_state(tmp_path / "w.safetensors", STATE)
    assert same(read_state(tmp_path / "w.safetensors"), STATE)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    write_state(path, STATE)
    with pytest.raises(InputError, match="cannot write"):
        write_state(tmp_path / "missing" / "w.safetensors", STATE)
    monkeypatch.setattr("diffbir_jax.weights.tensor_files.forget", lambda x: builtins.open("/dev/full/x"))
    with pytest.raises(InputError, match="cannot write"):
        write_state(path, {"x": np.zeros(1)})
    assert same(read_state(path), STATE) and [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
