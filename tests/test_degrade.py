import numpy as np
import pytest
from PIL import Image

from diffbir_jax import cli
from diffbir_jax.degrade import PROG, main
from diffbir_jax.imaging.files import read_image


def degrade(*argv):
    return cli.run(lambda: main([str(a) for a in argv]), PROG)


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
    assert "Jpeg(quality=" in capsys.readouterr().out


def test_bad_inputs_are_one_line_each_and_the_others_done(folder, capsys):
    (folder / "in" / "text.jpg").write_text("no photo")
    (folder / "empty").mkdir()
    assert degrade(folder / "in", folder / "none.png", folder / "empty", "--output", folder / "out") == 1
    assert len(list((folder / "out").iterdir())) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3 and all(line.startswith(PROG) for line in lines)


@pytest.mark.parametrize("flags", [["--recipe", "old"], ["--seed", "-1"], ["--seed", "one"], []])
def test_a_wrong_command_line_is_one_line_and_exit_2(folder, capsys, flags):
    output = ["--output", folder / "out"] if flags else []
    try:
        code = degrade(folder / "in", *output, *flags)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
