import os

import icc_profiles as icc
import numpy as np
import pytest
from PIL import Image

from diffbir_jax.errors import InputError
from diffbir_jax.imaging.files import read_image, read_image_uint8, write_png

PIXELS = np.stack(np.broadcast_arrays(*np.ogrid[:24, :32], 5), -1).astype(np.uint8) * np.array([8, 7, 6], np.uint8)


def test_what_is_written_is_read(tmp_path):
    write_png(tmp_path / "a.png", PIXELS / 255)
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.float32
    np.testing.assert_array_equal(np.rint(image * 255), PIXELS)
    assert os.listdir(tmp_path) == ["a.png"]


def test_transparency_is_laid_on_white(tmp_path):
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[:, 10:] = (255, 0, 0, 255)
    pixels[:, :5, 3] = 128
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image_uint8(tmp_path / "a.png")
    assert (image[:, :5] == 127).all() and (image[:, 5:10] == 255).all() and (image[:, 10:] == [255, 0, 0]).all()


def test_depth_profile_and_orientation_are_gone(tmp_path):
    Image.fromarray(np.full((16, 32), 32896, np.uint16)).save(tmp_path / "deep.png")
    assert (read_image_uint8(tmp_path / "deep.png") == 128).all()
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = Image.fromarray(np.full((16, 32), 128, np.uint8))
    grey.save(tmp_path / "linear.png", icc_profile=icc.grey_profile(icc.gamma(1.0)), exif=exif)
    image = read_image_uint8(tmp_path / "linear.png")
    assert image.shape == (32, 16, 3) and (image == 188).all()  # half of the light


def test_bad_files_are_named(tmp_path):
    (tmp_path / "text.jpg").write_text("no photo\n")
    with pytest.raises(InputError, match="text.jpg is not an image"):
        read_image(tmp_path / "text.jpg")
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="at least 25"):
        read_image_uint8(tmp_path / "a.png", min_side=25)
