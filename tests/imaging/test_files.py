import os

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.errors import InputError
from diffbir_jax.imaging.files import find_images, output_names, prepare_folder, read_image, write_png

RGB = np.stack(np.broadcast_arrays(*np.ogrid[:24, :32], 5), -1).astype(np.uint8) * [8, 7, 6]


@pytest.fixture
def pixels():
    return RGB.astype(np.uint8)


def test_what_is_written_is_read(tmp_path, pixels):
    write_png(tmp_path / "a.png", pixels / 255)
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.float32
    np.testing.assert_array_equal(np.rint(image * 255), pixels)
    assert os.listdir(tmp_path) == ["a.png"]


def test_values_out_of_range_are_clipped(tmp_path):
    write_png(tmp_path / "a.png", np.full((16, 16, 3), (-1.0, 0.5, 2.0)))
    assert set(np.unique(np.rint(read_image(tmp_path / "a.png") * 255))) == {0, 128, 255}


def test_exif_orientation_is_applied(tmp_path, pixels):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter, clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.rint(read_image(tmp_path / "a.png") * 255), np.rot90(pixels, -1))


@pytest.mark.parametrize(
    "mode, suffix", [("L", "png"), ("1", "png"), ("P", "png"), ("CMYK", "jpg"), ("LA", "png"), ("I;16", "tif"), ("F", "tif")]
)
def test_other_modes_become_rgb(tmp_path, mode, suffix):
    grey = Image.fromarray(np.full((20, 20), 255, np.uint8))
    deep = {"I;16": np.full((20, 20), 65535, np.uint16), "F": np.full((20, 20), 1, np.float32)}
    image = Image.fromarray(deep[mode]) if mode in deep else grey.convert(mode)
    assert image.mode == mode
    image.save(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(read_image(tmp_path / f"a.{suffix}"), np.ones((20, 20, 3)), atol=2 / 255)


def test_transparency_is_laid_on_white(tmp_path):
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[:, 10:] = (255, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert (image[:, :10] == 1).all() and (image[:, 10:] == [1, 0, 0]).all()


def test_bad_files_are_named(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "good.jpg")
    data = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) * 2 // 3])
    (tmp_path / "text.jpg").write_text("no photo\n")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(pixels[:15]).save(tmp_path / "small.png")
    reasons = {
        "cut.jpg": "truncated",
        "text.jpg": "not an image",
        "empty.png": "not an image",
        "small.png": "32x15.*at least 16",
        "missing.png": "does not exist",
    }
    for name, reason in reasons.items():
        with pytest.raises(InputError, match=f"{name} .*{reason}") as error:
            read_image(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="without images"):
        read_image(prepare_folder(tmp_path / "folder"))


def test_unwritable_places_are_named(tmp_path, pixels):
    with pytest.raises(InputError, match="nowhere/a.png"):
        write_png(tmp_path / "nowhere" / "a.png", pixels / 255)
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="cannot make the folder .*file"):
            prepare_folder(folder)


def test_find_images_takes_every_case_of_extension_sorted(tmp_path):
    for name in ("b.JPG", "a.png", "c.Tiff", "d.txt", ".hidden.png", "e.jpeg", "f.WEBP", "g.bmp"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    names = [p.name for p in find_images([tmp_path / "z.png", str(tmp_path)])]
    assert names == ["z.png", "a.png", "b.JPG", "c.Tiff", "e.jpeg", "f.WEBP", "g.bmp"]


def test_an_empty_folder_is_an_error_or_fails_alone(tmp_path):
    empty = prepare_folder(tmp_path / "empty")
    with pytest.raises(InputError, match="empty is a folder without images"):
        find_images([empty])
    assert find_images([empty, tmp_path / "a.png"]) == [empty, tmp_path / "a.png"]


def test_no_two_inputs_share_an_output(tmp_path):
    paths = [tmp_path / name for name in ("a.jpg", "b.jpg", "b.png")]
    assert output_names(paths) == ["a.png", "b.jpg.png", "b.png.png"]
    with pytest.raises(InputError, match="same file a.jpg.png"):
        output_names([tmp_path / "x" / "a.jpg", tmp_path / "y" / "a.jpg"])
