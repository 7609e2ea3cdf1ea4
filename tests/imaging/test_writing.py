import io
import json
import os
import signal
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, JpegImagePlugin

from diffbir_jax.errors import InputError
from diffbir_jax.imaging import writing
from diffbir_jax.imaging.paths import outputs_for
from diffbir_jax.imaging.reading import read_picture
from diffbir_jax.imaging.writing import write_picture, write_sidecar

RNG = np.random.default_rng(0)
DEEP = RNG.integers(65536, size=(40, 50, 3))
SMOOTH = np.stack(np.broadcast_arrays(*np.ogrid[0:1:40j, 0:1:50j], 0.5), -1)
ALPHA = np.rint(np.linspace(0, 255, 50))[None].repeat(40, 0) / 255
TEXT = {"diffbir_jax": '{"model": "tiny", "prompt": "Äpfel & <Birnen> 梨"}', "Software": "diffbir_jax 0.1"}


def camera():
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    return exif.tobytes()


def test_16_bits_come_back_to_the_last_bit(tmp_path):
    """Values that are no multiples of 257 among them; alpha too."""
    write_picture(tmp_path / "a.png", DEEP / 65535, DEEP[..., 0] / 65535, bits=16, text=TEXT, exif=camera())
    picture = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(np.rint(65535 * picture.pixels), DEEP)
    np.testing.assert_array_equal(np.rint(65535 * picture.alpha), DEEP[..., 0])
    assert (DEEP % 257 != 0).any()


@pytest.mark.parametrize("bits", [8, 16])
def test_values_are_clipped_and_rounded_to_the_nearest_level(tmp_path, bits):
    top = 2**bits - 1
    write_picture(tmp_path / "a.png", np.tile([-0.5, 1.5, (100 + 0.4) / top], (16, 16, 1)), bits=bits)
    np.testing.assert_array_equal(np.rint(top * read_picture(tmp_path / "a.png").pixels[3, 3]), [0, top, 100])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".webp"])
def test_every_format_comes_back_tagged_as_srgb_with_text_and_exif(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_picture(path, SMOOTH, text=TEXT, exif=camera())
    picture = read_picture(path)
    np.testing.assert_allclose(picture.pixels, SMOOTH, atol=8 / 255)
    assert picture.notes == () and b"Maker" in picture.exif
    with Image.open(path) as image:
        image.load()
        if suffix == ".png":
            assert image.text == TEXT and image.info["srgb"] == 0
            return
        assert image.info["icc_profile"][16:20] == b"RGB " and b"sRGB" in image.info["icc_profile"].replace(b"\0", b"")
        said = image.info["xmp"].decode()
        assert 'Äpfel &amp; &lt;Birnen&gt; 梨"}\nSoftware: diffbir_jax 0.1' in said


def test_xmp_is_what_readers_of_xmp_read(tmp_path):
    write_picture(tmp_path / "a.webp", SMOOTH, text=TEXT)
    with Image.open(tmp_path / "a.webp") as image:
        (description,) = ElementTree.fromstring(image.info["xmp"]).iter("{http://purl.org/dc/elements/1.1/}description")
    (line,) = description.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li")
    assert line.text == "\n".join(f"{key}: {said}" for key, said in TEXT.items())


def test_jpegs_keep_every_pixel_of_colour(tmp_path):
    write_picture(tmp_path / "a.jpg", SMOOTH)
    with Image.open(tmp_path / "a.jpg") as image:
        assert JpegImagePlugin.get_sampling(image) == 0  # 4:4:4


def test_alpha_is_written_or_laid_on_white(tmp_path):
    for suffix in (".png", ".webp", ".jpg"):
        write_picture(tmp_path / f"a{suffix}", SMOOTH, ALPHA)
    for suffix, off in ((".png", 0.6 / 255), (".webp", 30 / 255)):
        picture = read_picture(tmp_path / f"a{suffix}")
        np.testing.assert_allclose(picture.alpha, ALPHA, atol=1e-6)
        np.testing.assert_allclose(picture.pixels, SMOOTH, atol=off)  # under full transparency too
    expected = SMOOTH * ALPHA[..., None] + 1 - ALPHA[..., None]
    np.testing.assert_allclose(read_picture(tmp_path / "a.jpg").pixels, expected, atol=5 / 255)


def test_the_same_picture_is_the_same_bytes(tmp_path):
    for suffix in (".png", ".jpg", ".webp"):
        for name in ("a", "b"):
            write_picture(tmp_path / f"{name}{suffix}", SMOOTH, text=TEXT, exif=camera())
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_what_a_format_cannot_hold_is_said(tmp_path):
    long = np.zeros((1, 16384, 3), np.float32)
    for name, options, reason in (
        ("a.jpg", {"bits": 16}, "cannot hold 16 bits; write .png"),
        ("a.png", {"bits": 12}, "bits is 12; give 8 or 16"),
        ("a.gif", {}, "ends in .gif; results are written to one of .png"),
        ("a", {}, "ends in nothing"),
        ("a.webp", {"pixels": long}, "would be 16384x1; .webp takes at most 16383"),
        ("a.jpg", {"exif": bytes(70000)}, "cannot write .*a.jpg: EXIF data is too long"),
        ("nowhere/a.png", {}, "cannot write .*nowhere/a.png"),
    ):
        with pytest.raises(InputError, match=reason):
            write_picture(tmp_path / name, **({"pixels": SMOOTH} | options))
    assert os.listdir(tmp_path) == []


def test_a_writer_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    write_picture(tmp_path / "a.png", SMOOTH)
    before = (tmp_path / "a.png").read_bytes()

    def half(file, pieces):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "_write_pieces", half)
    with pytest.raises(InputError, match="cannot write .*a.png: No space left on device"):
        write_picture(tmp_path / "a.png", SMOOTH / 2)
    assert os.listdir(tmp_path) == ["a.png"] and (tmp_path / "a.png").read_bytes() == before


def test_a_killed_writer_leaves_no_half_picture(tmp_path):
    """Its hidden part is never an input."""
    script = f"""
import os, signal, numpy as np
from diffbir_jax.imaging import writing
def half(file, pieces):
    file.write_bytes(bytes(pieces[0]))
    os.kill(os.getpid(), signal.SIGKILL)
writing._write_pieces = half
writing.write_picture({str(tmp_path / "a.png")!r}, np.zeros((20, 20, 3)))
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    (part,) = os.listdir(tmp_path)
    assert part.startswith(".a.png.") and part.endswith(".part")
    with pytest.raises(InputError, match="without images"):
        outputs_for([tmp_path], tmp_path / "out")


def test_the_sidecar_is_json(tmp_path):
    record = {"model": "tiny", "options": {"steps": 20, "prompt": "梨"}, "seed": 7}
    write_sidecar(tmp_path / "a.json", record)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == record
    assert "梨" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_littlecms_takes_the_profile_of_a_result(tmp_path):
    write_picture(tmp_path / "a.jpg", SMOOTH)
    with Image.open(tmp_path / "a.jpg") as image:
        profile = ImageCms.getOpenProfile(io.BytesIO(image.info["icc_profile"]))
        same = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"))
        assert np.abs(np.asarray(same).astype(int) - np.asarray(image)).max() <= 1
