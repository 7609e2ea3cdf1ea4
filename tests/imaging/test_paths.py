import os

import pytest

from diffbir_jax.errors import InputError
from diffbir_jax.imaging.paths import images_in, outputs_for, prepare_folder
from diffbir_jax.imaging.reading import read_picture


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names(pairs, root):
    return [(str(path.relative_to(root)), str(target.relative_to(root))) for path, target in pairs]


def test_a_tree_is_mirrored_sorted_without_what_is_hidden(tmp_path):
    touch(tmp_path / "in", "b.JPG", "a.png", "sub/deep/c.heic", "sub/d.AVIF", "f.ppm", "notes.txt", ".hidden.png", ".git/e.png")
    assert names(outputs_for([str(tmp_path / "in")], tmp_path / "out"), tmp_path) == [
        ("in/a.png", "out/a.png"),
        ("in/b.JPG", "out/b.png"),
        ("in/f.ppm", "out/f.png"),
        ("in/sub/d.AVIF", "out/sub/d.png"),
        ("in/sub/deep/c.heic", "out/sub/deep/c.png"),
    ]


def test_files_go_to_the_output_in_the_order_given(tmp_path):
    touch(tmp_path, "x/b.jpg", "a.jpg", "more/c.jpg")
    given = [
        tmp_path / "x" / "b.jpg",
        tmp_path / "a.jpg",
        tmp_path / "more",
        tmp_path / "x" / ".." / "a.jpg",
        tmp_path / "gone.bmp",
    ]
    pairs = outputs_for(given, tmp_path / "out", ".webp")
    assert [target.name for _, target in pairs] == ["b.webp", "a.webp", "c.webp", "gone.webp"]  # a.jpg named twice is taken once
    assert pairs[3][0] == tmp_path / "gone.bmp"  # reading tells that it is missing


def test_names_that_would_collide_are_written_in_full(tmp_path):
    touch(tmp_path / "in", "a.jpg", "a.png", "b.png", "sub/a.png")
    targets = [target for _, target in names(outputs_for([tmp_path / "in"], tmp_path / "out"), tmp_path)]
    assert targets == ["out/a.jpg.png", "out/a.png.png", "out/b.png", "out/sub/a.png"]
    touch(tmp_path, "x/a.jpg", "y/a.jpg")
    with pytest.raises(InputError, match="x/a.jpg and .*y/a.jpg would be written to the same file .*a.jpg.png"):
        outputs_for([tmp_path / "x", tmp_path / "y"], tmp_path / "out")


def test_the_output_folder_is_not_an_input(tmp_path):
    """A second run finds what the first found."""
    touch(tmp_path, "a.jpg", "sub/b.jpg")
    first = outputs_for([tmp_path], tmp_path / "sub" / "out")
    touch(tmp_path / "sub" / "out", *[str(target.relative_to(tmp_path / "sub" / "out")) for _, target in first])
    assert outputs_for([tmp_path], tmp_path / "sub" / "out") == first and len(first) == 2
    os.symlink(tmp_path / "sub", tmp_path / "link")  # a link to a folder is not followed: it may lead round in circles
    assert outputs_for([tmp_path], tmp_path / "sub" / "out") == first
    with pytest.raises(InputError, match="is input and output; give another folder"):
        outputs_for([tmp_path], tmp_path / "sub" / "..")


def test_no_result_overwrites_an_input(tmp_path):
    touch(tmp_path, "a.png", "b.jpg", "b.png", "sub/c.png")
    for given in (["a.png"], ["sub/c.png", "a.png"]):
        with pytest.raises(InputError, match="a.png is an input and would be overwritten"):
            outputs_for([tmp_path / name for name in given], tmp_path)
    assert names(outputs_for([tmp_path / "b.jpg"], tmp_path), tmp_path) == [("b.jpg", "b.png")]  # b.png was not asked for
    assert [t.name for _, t in outputs_for([tmp_path / "b.jpg", tmp_path / "b.png"], tmp_path)] == ["b.jpg.png", "b.png.png"]


def test_a_link_to_itself_and_a_name_too_long_are_passed_on(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    long = tmp_path / f"{'x' * 300}.png"
    pairs = outputs_for([tmp_path, long], tmp_path / "out")
    assert [path.name for path, _ in pairs] == ["a.png", "loop.png", long.name]
    for path, message in ((tmp_path / "loop.png", "loop.png does not exist"), (long, "cannot be read: File name too long")):
        with pytest.raises(InputError, match=message):
            read_picture(path)


def test_a_folder_without_images_is_an_error_or_is_passed_on(tmp_path):
    touch(tmp_path / "empty", "readme.txt")
    touch(tmp_path / "full", "a.png")
    with pytest.raises(InputError, match="empty is a folder without images; it should hold files that end in .jpg"):
        outputs_for([tmp_path / "empty"], tmp_path / "out")
    pairs = outputs_for([tmp_path / "empty", tmp_path / "full"], tmp_path / "out")
    assert [path.name for path, _ in pairs] == ["empty", "a.png"]


def test_images_are_told_by_any_case_of_extension_and_sorted(tmp_path):
    touch(tmp_path, "b.JPG", "a.png", "c.Tiff", "d.txt", ".hidden.png", "e.jpeg", "f.WEBP", "g.bmp", "h.heic", "folder.png/i.png")
    assert [p.name for p in images_in(tmp_path)] == ["a.png", "b.JPG", "c.Tiff", "e.jpeg", "f.WEBP", "i.png", "g.bmp"]


def test_places_that_cannot_be_folders_are_named(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="cannot make the folder .*file"):
            prepare_folder(folder)
