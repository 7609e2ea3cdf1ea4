import re
import shutil

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.degradation.operations import Quantise, Resize, apply
from diffbir_jax.errors import InputError
from diffbir_jax.experiments import ablation, compare, tradeoff, trials
from diffbir_jax.metrics import fidelity

COMMANDS = (tradeoff, ablation, compare)


def read(folder, **options):
    return trials.read_trials(folder, folder / "out", trials.TrialOptions(**{"size": 64, **options}))


def test_the_seed_decides_on_crops_and_degradations(photographs):
    first, again, other = (read(photographs, seed=seed)[0] for seed in (0, 0, 1))
    assert [trial.name for trial in first] == ["chelsea_01", "petra_01"]
    for a, b, c in zip(first, again, other, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a[1:], b[1:], strict=True))
        assert not np.array_equal(a.original, c.original) and not np.array_equal(a.lq, c.lq)
        assert a.original.shape == a.lq.shape == (64, 64, 3)


def test_the_small_image_is_the_degraded_one_before_it_was_enlarged(photographs):
    for trial in read(photographs, recipe="realesrgan", size=128)[0]:
        assert trial.small.shape == (32, 32, 3)
        assert np.array_equal(apply([Resize(128, 128, "bicubic"), Quantise()], trial.small), trial.lq)


def test_ranges_of_the_recipe_can_be_set(photographs):
    little, much = (
        read(photographs, recipe="codeformer", set=["downsample=1,1", "blur.sigma=0.1,0.1", f"noise={noise},{noise}"])[0]
        for noise in (0, 15)
    )
    for a, b in zip(little, much, strict=True):
        assert np.array_equal(a.original, b.original)
        assert fidelity.psnr(a.lq, a.original) > fidelity.psnr(b.lq, a.original) + 1


def test_photographs_are_cut_in_turn_and_anew(photographs):
    found, _ = read(photographs, crops=3)
    names = [trial.name for trial in found]
    assert len(set(names)) == 3 and sum(name.endswith("_2") for name in names) == 1
    assert len(read(photographs, crops=1)[0]) == 1
    assert not any(np.array_equal(a.original, b.original) for a in found for b in found if a is not b)


def test_crops_that_would_share_a_name_are_refused(photographs, tmp_path):
    for name in ("a", "a_2"):
        shutil.copy(photographs / "petra_01.webp", tmp_path / f"{name}.webp")
    assert [trial.name for trial in read(tmp_path, crops=2)[0]] == ["a", "a_2"]
    with pytest.raises(InputError, match="two crops would be called a_2"):
        read(tmp_path, crops=4)


def test_what_gives_no_crop_is_named_and_results_are_no_photographs(tmp_path):
    for name, side in (("large", 70), ("sub/large", 70), ("little", 60), ("out/results/x/large", 70)):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, 80, 3), np.uint8)).save(path)
    (tmp_path / "broken.png").write_bytes(b"no image")
    found, lines = read(tmp_path)
    assert [trial.name for trial in found] == ["large", "sub/large"] and len(lines) == 2
    assert any("little.png is 80x60, smaller than a crop of 64" in line for line in lines)


def test_sharpness_is_in_proportion_to_the_reference_and_colours_are_signed():
    image = np.random.default_rng(0).random((32, 32, 3), np.float32)
    assert fidelity.sharpness(image, image) == 1
    assert fidelity.sharpness(image / 2, image) == pytest.approx(0.25, rel=1e-5)
    assert fidelity.colour_shift(image + np.float32([1, 0, -2]) / 255, image) == pytest.approx([1, 0, -2], abs=1e-3)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "flags, told",
    [
        (["--crops", "0"], "crops is 0; give at least 1"),
        (["--size", "32"], "size is 32; give at least 64"),
        (["--size", "300"], "no photograph of .* holds a crop of 300 pixels"),
        (["--recipe", "rain"], "no recipe is called 'rain'"),
        (["--set", "rain=1,2"], "rain"),
        (["--set", "noise"], "--set 'noise' has no value"),
        (["--metrics", "beauty"], "no metric is called 'beauty'"),
        (["--model", "huge"], "model 'huge' is neither"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_writes_nothing(photographs, sized, tmp_path, capsys, command, flags, told):
    assert command.main([str(photographs), "--output", str(tmp_path / "out"), *sized, *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith(command.PROG)
    assert re.search(told, lines[0])
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    "command, flags, told",
    [
        (tradeoff, ["--scales", "0"], "scales is '0'; give two or more"),
        (tradeoff, ["--scales", "0,much"], "scales is '0,much'; give numbers joined by commas"),
        (tradeoff, ["--samplers", "magic"], "sampler is 'magic'"),
        (tradeoff, ["--step-counts", "0"], "steps is 0"),
        (ablation, ["--variant", "nothing"], "variant is 'nothing'; give NAME=FOLDER"),
        (ablation, ["--variant", "full=."], "variant 'full' is taken"),
        (ablation, ["--variant", "a=nowhere"], "variant a: nowhere is not a folder"),
        (compare, ["--method", "a/b=."], "give NAME=FOLDER, the name without /"),
        (compare, ["--method", "bicubic=."], "method 'bicubic' is taken"),
        (compare, ["--runners", "magic"], "no runner is called 'magic'"),
        (compare, ["--runners", ""], "no method is asked for"),
    ],
)
def test_a_wrong_flag_of_one_experiment_is_one_line(photographs, sized, tmp_path, capsys, command, flags, told):
    assert command.main([str(photographs), "--output", str(tmp_path / "out"), *sized, *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line and not (tmp_path / "out").exists()
