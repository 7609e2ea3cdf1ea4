"""Of diffbir_jax/data/pack.py."""

import cv2
import numpy as np
import pytest
from PIL import Image

from diffbir_jax.data import pack
from diffbir_jax.data.sources import open_source


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (80, 64)), ("b.png", (64, 96)), ("c.png", (40, 50))):
        pixels = cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), size, interpolation=cv2.INTER_CUBIC)
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    return tmp_path / "in"


def packed(out):
    return {photo.name: photo for photo in open_source(out)}


def test_centre_squares_of_photos_with_their_prompts(folder, tmp_path, capsys):
    (tmp_path / "captions.txt").write_text("b.png\tA tree\nnone.png\tA cat\n")
    flags = ["--size", "32", "--shards", "2", "--captions", str(tmp_path / "captions.txt")]
    assert pack.main([str(folder), str(tmp_path / "deep" / "out"), *flags]) == 0
    assert capsys.readouterr().out == f"3 photos of 32x32 in {tmp_path / 'deep' / 'out'}, 1 with a prompt; 0 skipped\n"
    names = [path.name for path in sorted((tmp_path / "deep").rglob("*"))]
    assert names == ["out", "photos-00000-of-00002.array_record", "photos-00001-of-00002.array_record"]
    photos, source = packed(tmp_path / "deep" / "out"), np.asarray(Image.open(folder / "a.png")).astype(float)
    assert {name: photo.prompt for name, photo in photos.items()} == {"a.png": "", "b.png": "A tree", "c.png": ""}
    assert all(photo.image.shape == (32, 32, 3) for photo in photos.values())
    means = source[:, 8:72].reshape(32, 2, 32, 2, 3).mean((1, 3))  # the shorter side halved, then the centre
    assert np.abs(photos["a.png"].image - means).max() <= 0.5


def test_quality_makes_smaller_files_of_nearly_the_same_photos(folder, tmp_path):
    for name, flags in (("png", []), ("jpeg", ["--quality", "90"])):
        assert pack.main([str(folder), str(tmp_path / name), "--size", "40", *flags]) == 0
    exact, near = packed(tmp_path / "png"), packed(tmp_path / "jpeg")
    errors = [np.abs(exact[name].image.astype(float) - near[name].image).mean() for name in exact]
    assert 0 < min(errors) and max(errors) < 4


def test_broken_photos_are_named_once_and_counted(folder, tmp_path, capsys, caplog):
    (folder / "a.png").write_text("no photo")
    (folder / "d.jpg").touch()
    assert pack.main([str(folder), str(tmp_path / "out"), "--size", "16"]) == 0
    assert capsys.readouterr().out.endswith("2 photos of 16x16 in " + str(tmp_path / "out") + "; 2 skipped\n")
    assert sorted(message.split("/")[-1].split(" ")[0] for message in caplog.messages) == ["a.png", "d.jpg"]
    assert len(list((tmp_path / "out").iterdir())) == 2  # no shard without a photo


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["{}/none", "{}/out"], "none' is no source"),
        (["{}/empty", "{}/out"], "no image in"),
        (["{}/broken", "{}/out"], "can be used"),
        (["{}/in", "{}/in"], "is there already"),
        (["{}/in", "{}/in/a.png/out"], "cannot write"),
        (["{}/in", "{}/out", "--size", "0"], "size is 0"),
        (["{}/in", "{}/out", "--quality", "101"], "quality is 101"),
        (["{}/in", "{}/out", "--captions", "{}/none.txt"], "cannot read the list"),
        (["{}/in"], "OUT"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(folder, tmp_path, capsys, given, message):
    for name in ("empty", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "a.png").write_text("no photo")
    before = sorted(tmp_path.rglob("*"))
    try:
        code = pack.main([text.format(tmp_path) for text in given])
    except SystemExit as error:
        code = error.code
    error = capsys.readouterr().err
    assert code == 2 and message in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_an_interrupt_leaves_nothing(folder, tmp_path, monkeypatch):
    def interrupt(photo, quality):
        raise KeyboardInterrupt

    monkeypatch.setattr(pack, "encode_record", interrupt)
    assert pack.main([str(folder), str(tmp_path / "out")]) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
