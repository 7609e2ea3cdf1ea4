"""Prompts for photographs: from a file, from a function."""

from pathlib import Path

import numpy as np
import pytest

from diffbir_jax import InputError
from diffbir_jax.captions import captions_of
from diffbir_jax.options import FileOptions

PATHS = [Path("photos/cat.jpg"), Path("photos/dog.png"), Path("photos/other.png")]
IMAGE = np.full((4, 4, 3), 0.25, np.float32)


def brightness(image):
    return f"brightness {image.mean():.2f}"


def no_text(image):
    return 3


def broken(image):
    raise RuntimeError("out of\nideas")


def test_a_file_names_photographs_by_path_name_or_stem(tmp_path):
    table = tmp_path / "captions.csv"
    table.write_text('file,prompt\ncat.jpg,"a cat, asleep"\ndog,a dog\n')
    caption, known = captions_of(FileOptions(captions=str(table)), PATHS)
    assert [caption(path, IMAGE) for path in PATHS] == ["a cat, asleep", "a dog", ""]
    assert known == ["a cat, asleep", "a dog"]


@pytest.mark.parametrize(
    ("text", "message"), [("\n\ncat.jpg,a,b\n", "line 3 has 3 columns"), ("cow.jpg,a cow\n", "names none of the photographs")]
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, text, message):
    (tmp_path / "captions.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        captions_of(FileOptions(captions=str(tmp_path / "captions.csv")), PATHS)


def test_a_file_may_hold_empty_lines_lines_within_quotes_and_dots_before_paths(tmp_path):
    (tmp_path / "captions.csv").write_text('\n./photos/cat.jpg,"a cat\nasleep"\n\ndog,a\u2028dog\n', encoding="utf-8")
    caption, _ = captions_of(FileOptions(captions=str(tmp_path / "captions.csv")), PATHS)
    assert [caption(path, IMAGE) for path in PATHS] == ["a cat\nasleep", "a\u2028dog", ""]


def test_a_function_looks_at_the_photograph():
    caption, known = captions_of(FileOptions(captioner=f"{__name__}:brightness"), PATHS)
    assert caption(PATHS[0], IMAGE) == "brightness 0.25" and known == []


@pytest.mark.parametrize(
    ("name", "message"),
    [("no_text", "cat.jpg: .* returned int; it should return a prompt"), ("broken", "RuntimeError: out of ideas")],
)
def test_a_function_that_fails_is_a_line_about_the_photograph(name, message):
    caption, _ = captions_of(FileOptions(captioner=f"{__name__}:{name}"), PATHS)
    with pytest.raises(InputError, match=message):
        caption(PATHS[0], IMAGE)


@pytest.mark.parametrize("name", ["nowhere:caption", f"{__name__}:nothing", "noname"])
def test_a_function_that_is_not_there_is_refused(name):
    with pytest.raises(InputError, match="give module:function"):
        captions_of(FileOptions(captioner=name), PATHS)


def test_a_function_whose_module_fails_is_refused(tmp_path, monkeypatch):
    (tmp_path / "half_written.py").write_text("def caption(")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="SyntaxError: .* give module:function"):
        captions_of(FileOptions(captioner="half_written:caption"), PATHS)


def test_no_captions_is_no_text():
    caption, known = captions_of(FileOptions(), PATHS)
    assert caption(PATHS[0], IMAGE) == "" and known == []
