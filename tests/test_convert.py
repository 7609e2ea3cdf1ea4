"""The command; what it converts is in tests/weights."""

import os
import subprocess
import sys

import numpy as np
import pytest
from golden import vectors
from released_files import same
from safetensors.numpy import load_file, save_file

from diffbir_jax import cli
from diffbir_jax.convert import main
from diffbir_jax.models.control import ControlNet
from diffbir_jax.weights.folder import load_network, save_network
from diffbir_jax.weights.torch_files import read_state, write_state

BUFFERS = ("relative_position_index", "attn_mask")


def golden(file, prefix):
    return {k.removeprefix(prefix): v for k, v in vectors(file).items() if k.startswith(prefix)}


def run(*argv):
    return cli.run(lambda: main([str(a) for a in argv]), "diffbir_jax.convert")


@pytest.fixture(scope="module")
def swinir(tmp_path_factory):
    """The golden SwinIR's state, buffers included."""
    folder = tmp_path_factory.mktemp("swinir")
    save_file(golden("swinir", "params."), folder / "any.safetensors")
    assert run("to-jax", folder / "any.safetensors", "--output", folder / "ours") == 0
    assert run("to-torch", folder / "ours", "--output", folder / "theirs") == 0
    return load_file(folder / "theirs" / "any.safetensors")


@pytest.fixture(scope="module")
def control():
    return golden("unet_control", "controlnet.")


def test_the_golden_parameters_come_back(swinir):
    state = golden("swinir", "params.")
    assert same({k: v for k, v in swinir.items() if k in state}, state)
    assert sum(k.endswith(BUFFERS) for k in swinir) == 4 + 2


@pytest.mark.parametrize("form", ["safetensors", "pth"])
def test_there_and_back_is_the_identity(tmp_path, swinir, control, form):
    if form == "pth":
        pytest.importorskip("torch")
    write_state(tmp_path / f"a.{form}", swinir)
    write_state(tmp_path / f"b.{form}", control)
    assert run("to-jax", tmp_path / f"a.{form}", tmp_path / f"b.{form}", "--output", tmp_path / "ours", "--head-dim", 16) == 0
    assert run("to-torch", tmp_path / "ours", "--output", tmp_path / "theirs") == 0
    assert same(read_state(tmp_path / "theirs" / f"a.{form}"), swinir)
    assert same(read_state(tmp_path / "theirs" / f"b.{form}"), control)
    assert sorted(p.name for p in (tmp_path / "ours").iterdir()) == ["control.safetensors", "model.json", "stage1.safetensors"]


@pytest.mark.parametrize("dtype", [np.float16, "bfloat16"])
def test_half_precision_files_stay_so(tmp_path, control, dtype):
    state = {k: v.astype(dtype) for k, v in control.items()}
    write_state(tmp_path / "a.safetensors", state)
    assert run("to-jax", tmp_path / "a.safetensors", "--output", tmp_path, "--head-dim", 16) == 0
    assert run("to-torch", tmp_path, "--output", tmp_path / "theirs") == 0
    assert same(read_state(tmp_path / "theirs" / "a.safetensors"), state)


def test_masks_of_another_size_come_back(tmp_path, swinir):
    from diffbir_jax.weights.recognition import recognise
    from diffbir_jax.weights.released import ours, released

    net = recognise(swinir)
    state = released(net, ours(net, swinir)[0], 32)
    write_state(tmp_path / "a.safetensors", state)
    assert run("to-jax", tmp_path / "a.safetensors", "--output", tmp_path / "ours") == 0
    assert run("to-torch", tmp_path / "ours", "--output", tmp_path / "theirs") == 0
    assert same(load_file(tmp_path / "theirs" / "a.safetensors"), state)


def test_strangers_are_reported_and_come_back_other_networks_are_left(tmp_path, swinir, capsys):
    save_file({**swinir, "step": np.zeros(1)}, tmp_path / "a.safetensors")
    assert run("to-jax", tmp_path / "a.safetensors", "--output", tmp_path / "ours") == 0
    assert "1 not needed: step" in capsys.readouterr().out
    save_network(tmp_path / "ours", "ablation", ControlNet(), {"x": np.zeros(1)})
    assert run("to-torch", tmp_path / "ours", "--output", tmp_path / "theirs") == 0
    assert "left out ablation: a ControlNet cannot be written for the original" in capsys.readouterr().out
    assert "step" in load_file(tmp_path / "theirs" / "a.safetensors")


def test_a_trained_network_goes_to_a_file_named_for_it(tmp_path, control):
    save_file(control, tmp_path / "a.safetensors")
    assert run("to-jax", tmp_path / "a.safetensors", "--output", tmp_path / "ours", "--head-dim", 16) == 0
    net, params = load_network(tmp_path / "ours", "control")
    save_network(tmp_path / "trained", "control", net, params)
    assert run("to-torch", tmp_path / "trained", "--output", tmp_path / "theirs", "--format", "safetensors") == 0
    assert same(load_file(tmp_path / "theirs" / "control.safetensors"), control)


def test_a_folder_keeps_its_other_networks(tmp_path, swinir, control):
    save_file(swinir, tmp_path / "a.safetensors")
    save_file(control, tmp_path / "b.safetensors")
    for source in ("a", "b"):
        assert run("to-jax", tmp_path / f"{source}.safetensors", "--output", tmp_path / "ours", "--head-dim", 16) == 0
    assert load_network(tmp_path / "ours", "stage1")[0].embed_dim == 24
    assert load_network(tmp_path / "ours", "control")[0].channels == (32, 64)
    assert run("to-torch", tmp_path / "ours", "--output", tmp_path / "theirs") == 0
    assert sorted(p.name for p in (tmp_path / "theirs").iterdir()) == ["a.safetensors", "b.safetensors"]


def test_one_bad_file_of_two_writes_nothing(tmp_path, swinir, capsys):
    save_file(swinir, tmp_path / "a.safetensors")
    save_file({k: v for k, v in swinir.items() if k != "conv_hr.bias"}, tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:5000])
    for other, message in (("a", "second SwinIR"), ("b", "conv_hr.bias"), ("c", "cannot be read"), ("d", "not a file")):
        assert run("to-jax", tmp_path / "a.safetensors", tmp_path / f"{other}.safetensors", "--output", tmp_path / "ours") == 2
        error = capsys.readouterr().err
        assert f"{other}.safetensors" in error and message in error and error.count("\n") == 1
    assert not (tmp_path / "ours").exists()


def test_to_torch_and_to_diffusers_without_a_model_or_pytorch(tmp_path, control, capsys, monkeypatch):
    assert run("to-torch", tmp_path, "--output", tmp_path / "theirs") == 2
    assert "no model.json" in capsys.readouterr().err
    save_network(tmp_path, "ablation", ControlNet(), {"x": np.zeros(1)})
    assert run("to-torch", tmp_path, "--output", tmp_path / "theirs") == 2
    assert "holds nothing for the original: a ControlNet cannot be written" in capsys.readouterr().err
    assert run("to-diffusers", tmp_path, "--output", tmp_path / "theirs") == 2
    assert "neither unet nor autoencoder nor text_encoder, but ablation" in capsys.readouterr().err
    save_file(control, tmp_path / "a.safetensors")
    assert run("to-jax", tmp_path / "a.safetensors", "--output", tmp_path / "ours", "--head-dim", 16) == 0
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run("to-torch", tmp_path / "ours", "--output", tmp_path / "theirs", "--format", "pth") == 2
    assert "pip install diffbir_jax[torch]" in capsys.readouterr().err
    assert not (tmp_path / "theirs").exists()


def test_an_output_that_cannot_be_written(tmp_path, swinir, capsys):
    save_file(swinir, tmp_path / "a.safetensors")
    assert run("to-jax", tmp_path / "a.safetensors", "--output", tmp_path / "a.safetensors") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_and_mistakes_need_no_jax():
    code = "import sys; from diffbir_jax.convert import main\ntry: main(sys.argv[1:])\nfinally: assert 'jax' not in sys.modules"
    for argv, status in (["--help"], 0), (["to-jax", "--help"], 0), (["to-jax"], 2), ([], 2), (["to-flax", "x"], 2):
        done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, env=os.environ)
        assert done.returncode == status and "Traceback" not in done.stderr
        assert status == 0 or done.stderr.count("\n") == 1


def test_no_input_is_overwritten(tmp_path, control, capsys):
    source = tmp_path / "control.safetensors"
    save_file(control, source)
    before = source.read_bytes()
    assert run("to-jax", source, "--output", tmp_path, "--head-dim", 16) == 2
    assert f"{source} is an input and would be overwritten" in capsys.readouterr().err
    assert run("to-jax", source, "--output", tmp_path / "ours", "--head-dim", 16) == 0
    assert run("to-torch", tmp_path / "ours", "--output", tmp_path / "ours") == 2
    assert "would be overwritten" in capsys.readouterr().err and source.read_bytes() == before
    load_network(tmp_path / "ours", "control")


def test_two_files_of_one_name_are_refused(tmp_path, swinir, control, capsys):
    paths = [tmp_path / name / "model.safetensors" for name in "ab"]
    for path, state in zip(paths, (swinir, control), strict=True):
        path.parent.mkdir()
        save_file(state, path)
    rest = ["--output", tmp_path / "ours", "--head-dim", 16]
    assert run("to-jax", *paths, *rest) == 2
    assert run("to-jax", paths[0], *rest) == run("to-jax", paths[0], *rest) == 0
    assert run("to-jax", paths[1], *rest) == 2
    assert "two files are called model.safetensors" in capsys.readouterr().err


def test_what_an_earlier_file_held_besides_is_forgotten(tmp_path, control):
    source = tmp_path / "a.safetensors"
    for state in (control | {"stray": np.zeros(3, np.float32)}, control):
        save_file(state, source)
        assert run("to-jax", source, "--output", tmp_path / "ours", "--head-dim", 16) == 0
    assert run("to-torch", tmp_path / "ours", "--output", tmp_path / "theirs") == 0
    assert same(read_state(tmp_path / "theirs" / "a.safetensors"), control)


@pytest.mark.parametrize("text", ["[]", "{}", '{"networks": []}', '{"networks": {"unet": 1}}', "null"])
def test_a_card_of_another_program_is_one_line(tmp_path, capsys, text):
    (tmp_path / "model.json").write_text(text)
    for command in ("to-torch", "to-diffusers"):
        assert run(command, tmp_path, "--output", tmp_path / "theirs") == 2
        assert "model.json describes no networks; give a model folder" in capsys.readouterr().err


def test_a_file_is_no_model_folder(tmp_path, capsys):
    (tmp_path / "a.safetensors").touch()
    assert run("to-torch", tmp_path / "a.safetensors", "--output", tmp_path / "theirs") == 2
    assert "a.safetensors has no model.json; give a model folder" in capsys.readouterr().err
