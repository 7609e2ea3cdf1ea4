import json

import numpy as np
import pytest
from PIL import Image

from diffbir_jax import cli
from diffbir_jax.degradation.recipes import RECIPES
from diffbir_jax.degrade import PROG, main
from diffbir_jax.imaging.reading import read_image


def degrade(*argv):
    return cli.run(lambda: main([str(a) for a in argv]), PROG)


def code_of(*argv):
    try:
        return degrade(*argv)
    except SystemExit as stop:
        return stop.code


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.PNG"):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / "in" / name)
    return tmp_path


def test_an_image_does_not_depend_on_the_others(folder, capsys):
    assert degrade(folder / "in", "--output", folder / "all", "--seed", 1) == 0
    assert degrade(folder / "in" / "b.PNG", "--output", folder / "one", "--seed", 1) == 0
    assert degrade(folder / "in" / "b.PNG", "--output", folder / "other", "--seed", 2, "--recipe", "face") == 0
    assert sorted(p.name for p in (folder / "all").iterdir()) == ["a.png", "b.png"]
    assert (folder / "all" / "b.png").read_bytes() == (folder / "one" / "b.png").read_bytes()
    assert (folder / "all" / "b.png").read_bytes() != (folder / "other" / "b.png").read_bytes()
    assert read_image(folder / "all" / "b.png").shape == (40, 50, 3)
    assert ", JPEG " in capsys.readouterr().out


@pytest.mark.parametrize("recipe", [*RECIPES, "codeformer+realesrgan"])
def test_stored_parameters_replay_byte_for_byte(folder, recipe):
    assert degrade(folder / "in", "--output", folder / "first", "--recipe", recipe, "--seed", 3, "--save-params") == 0
    assert sorted(p.name for p in (folder / "first").iterdir()) == ["a.json", "a.png", "b.json", "b.png"]
    stored = json.loads((folder / "first" / "a.json").read_text())
    assert stored["recipe"] == recipe and stored["seed"] == 3 and stored["photo"] == "a.jpg"
    assert degrade(folder / "in", "--output", folder / "again", "--params", folder / "first", "--save-params") == 0
    assert degrade(folder / "in" / "b.PNG", "--output", folder / "one", "--params", folder / "first" / "b.json") == 0
    for name in ("a.png", "b.png"):
        assert (folder / "first" / name).read_bytes() == (folder / "again" / name).read_bytes()
    assert (folder / "first" / "b.png").read_bytes() == (folder / "one" / "b.png").read_bytes()
    assert json.loads((folder / "again" / "a.json").read_text())["operations"] == stored["operations"]


def test_the_grid_comes_beside_the_same_image(folder):
    assert degrade(folder / "in", "--output", folder / "plain") == 0
    assert degrade(folder / "in", "--output", folder / "grid", "--grid", 3) == 0
    assert sorted(p.name for p in (folder / "grid").iterdir()) == ["a.png", "b.png", "grid"]
    assert (folder / "plain" / "a.png").read_bytes() == (folder / "grid" / "a.png").read_bytes()
    sheet = read_image(folder / "grid" / "grid" / "a.png")  # two rows of two; the first has the photo and the image written
    width = sheet.shape[1] // 2
    np.testing.assert_allclose(sheet[10:50, 10:60], read_image(folder / "in" / "a.jpg"), atol=1e-6)
    np.testing.assert_allclose(sheet[10:50, width + 10 : width + 60], read_image(folder / "grid" / "a.png"), atol=1e-6)


def test_a_tree_is_mirrored(folder):
    """Results, parameters and contact sheets."""
    (folder / "in" / "sub").mkdir()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / "in" / "sub" / "a.png")
    assert degrade(folder / "in", "--output", folder / "out", "--save-params", "--grid", 1) == 0
    made = {str(p.relative_to(folder / "out")) for p in (folder / "out").rglob("*.*")}
    sheets = {"grid/a.png", "grid/b.png", "grid/sub/a.png"}
    assert made == sheets | {"a.png", "a.json", "b.png", "b.json", "sub/a.png", "sub/a.json"}
    assert degrade(folder / "in", "--output", folder / "again", "--params", folder / "out") == 0
    for name in ("a.png", "sub/a.png"):
        assert (folder / "again" / name).read_bytes() == (folder / "out" / name).read_bytes()


def test_no_result_is_written_among_the_contact_sheets(folder, capsys):
    (folder / "in" / "a.jpg").rename(folder / "in" / "grid.jpg")  # a file may be called so
    assert degrade(folder / "in", "--output", folder / "out", "--grid", 1) == 0
    (folder / "in" / "grid").mkdir()
    (folder / "in" / "b.PNG").rename(folder / "in" / "grid" / "b.PNG")
    assert degrade(folder / "in", "--output", folder / "more", "--grid", 1) == 2
    assert "b.PNG would be written among the contact sheets" in capsys.readouterr().err and not (folder / "more").exists()


def test_set_changes_a_range(folder):
    settings = ("--set", "quality=7,7", "--set", "blur.kinds=iso", "--set", "blur.probabilities=1", "--set", "noise=(1, 2)")
    assert degrade(folder / "in", "--output", folder / "out", "--save-params", *settings) == 0
    blur, _, noise, jpeg, *_ = json.loads((folder / "out" / "a.json").read_text())["operations"]
    assert jpeg["quality"] == 7 and blur["sigma_x"] == blur["sigma_y"] and 1 <= noise["sigma"] * 255 <= 2


def test_bad_inputs_are_one_line_each_and_the_others_done(folder, capsys):
    (folder / "in" / "text.jpg").write_text("no photo")
    (folder / "empty").mkdir()
    assert degrade(folder / "in", folder / "none.png", folder / "empty", "--output", folder / "out") == 1
    assert len(list((folder / "out").iterdir())) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3 and all(line.startswith(PROG) for line in lines)


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--recipe", "old"], "no recipe is called 'old'; give one of realesrgan, codeformer, face, bsrgan"),
        (["--seed", "-1"], "seed is -1"),
        (["--seed", "one"], "--seed"),
        (["--set", "blur.sigma=3,1"], "blur.sigma is (3, 1); give (min, max)"),
        (["--set", "blur.probabilities=0.5,0.6"], "blur.probabilities is (0.5, 0.6)"),
        (["--set", "blur.kinds=iso,round"], "blur.kinds is ('iso', 'round'); give one or more of iso, aniso"),
        (["--recipe", "realesrgan", "--set", "first.blur.size=8,20"], "first.blur.size is (8, 20); give odd numbers"),
        (["--set", "sigma=1,2"], "sigma is no field"),
        (["--set", "noise"], "--set 'noise' has no value"),
        (["--set", "noise={[1]: 2}"], "noise is ('{[1]: 2}',); give (min, max)"),
        (["--grid", "0"], "grid is 0; give 1 to 99"),
        (["--params", "nowhere.json"], "nowhere.json does not exist"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_2_and_writes_nothing(folder, capsys, flags, told):
    assert code_of(folder / "in", "--output", folder / "out", *flags) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(PROG) and told in line
    assert not (folder / "out").exists()


def test_output_is_required(folder, capsys):
    assert code_of(folder / "in") == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("flag", [["--seed", "0"], ["--recipe", "face"], ["--set", "noise=0,1"], ["--grid"]])
def test_params_exclude_what_is_drawn(folder, capsys, flag):
    assert code_of(folder / "in", "--output", folder / "out", "--params", folder, *flag) == 2
    assert f"leave out {flag[0]}" in capsys.readouterr().err


def test_bad_params_are_told_for_each_photo(folder, capsys):
    params = folder / "params"
    params.mkdir()
    (params / "a.json").write_text(json.dumps({"height": 7, "width": 9, "operations": []}))
    assert degrade(folder / "in", "--output", folder / "out", "--params", params) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "a.json was drawn for 9x7; a is 50x40" in lines[0] and "b.json cannot be read" in lines[1] and len(lines) == 2
    (params / "b.json").write_bytes(b"\xff\xfe{")
    assert degrade(folder / "in" / "b.PNG", "--output", folder / "out", "--params", params / "b.json") == 2
    assert degrade(folder / "in", "--output", folder / "out", "--params", params / "b.json") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "b.json" in lines[0] and "one degradation for 2 photos" in lines[1]
