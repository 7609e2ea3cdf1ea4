import io
import os
import struct
import sys
import tracemalloc
import zlib

import cv2
import icc_profiles as icc
import numpy as np
import pytest
from odd_files import forged_png, make_odd_files, png_chunk
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

from diffbir_jax.errors import InputError
from diffbir_jax.imaging.reading import read_image, read_image_uint8, read_picture
from diffbir_jax.imaging.writing import write_picture

BASE, IFD = ExifTags.Base, ExifTags.IFD
PHOTO = np.stack(np.broadcast_arrays(*np.ogrid[:24, :32], 5), -1).astype(np.uint8) * np.array([8, 7, 6], np.uint8)
DEEP = np.random.default_rng(0).integers(1, 65535, (24, 32, 4)).astype(np.uint16)
MODES = {"L": "png", "1": "png", "P": "png", "CMYK": "jpg", "LA": "png", "RGBA": "webp", "LAB": "tif", "YCbCr": "jpg"}
SUFFIXES = ("png", "jpg", "webp", "tif", "avif", "gif", "bmp", "jp2", "ppm")


def png16(pixels, colour_type, *chunks):
    """A PNG of 16 bits: grey 0, RGB 2, grey and alpha 4, RGB and alpha 6."""
    (height, width), rows = pixels.shape[:2], b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join((header, *chunks, png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b"")))


def tiff16(pixels, orientation=1):
    (height, width, channels), ifd = pixels.shape, TiffImagePlugin.ImageFileDirectory_v2()
    tags = {256: width, 257: height, 258: (16,) * channels, 259: 1, 262: 2, 273: 0, 274: orientation, 277: channels, 278: height}
    for tag, value in (tags | {279: pixels.nbytes} | ({338: 2} if channels == 4 else {})).items():
        ifd[tag] = value
    return b"II*\0\x08\0\0\0" + ifd.tobytes(8) + pixels.astype("<u2").tobytes()


def exif_with(orientation=1):
    """A camera's EXIF, a thumbnail (IFD 1) behind it."""
    exif = Image.Exif()
    exif.update({BASE.Orientation: orientation, BASE.Make: "Maker", BASE.Copyright: "Anna"})
    exif.get_ifd(IFD.GPSInfo).update({ExifTags.GPS.GPSLatitudeRef: "N", ExifTags.GPS.GPSLatitude: (52.0, 31.0, 12.0)})
    exif.get_ifd(IFD.Exif).update({BASE.ColorSpace: 0xFFFF, BASE.ExifImageWidth: 32, BASE.FNumber: 2.8})
    data = bytearray(exif.tobytes()[6:])
    (entries,) = struct.unpack_from(">H", data, 8)
    struct.pack_into(">I", data, 10 + 12 * entries, len(data))  # where the next directory is
    thumbnail = b"\xff\xd8THUMB\xff\xd9"
    data += struct.pack(">HHHIIHHIII", 2, 0x201, 4, 1, len(data) + 30, 0x202, 4, 1, len(thumbnail), 0) + thumbnail
    return b"Exif\0\0" + bytes(data)


def save(path, image=None, **options):
    (Image.fromarray(PHOTO) if image is None else image).save(path, **options)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
def test_every_orientation_is_turned_upright(tmp_path, orientation, suffix):
    path = save(tmp_path / f"a.{suffix}", exif=exif_with(orientation))
    picture, theirs = read_picture(path), np.asarray(ImageOps.exif_transpose(Image.open(path)))
    np.testing.assert_array_equal(np.rint(255 * picture.pixels), theirs)
    assert picture.notes == ("turned upright",) * (orientation > 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bits_are_turned_upright_to_the_last_bit(tmp_path, orientation):
    """Read with OpenCV, which turns TIFFs by itself and PNGs not."""
    mark = png_chunk(b"eXIf", exif_with(orientation)[6:])
    (tmp_path / "a.png").write_bytes(png16(DEEP[..., :3], 2, mark))
    (tmp_path / "a.tif").write_bytes(tiff16(DEEP[..., :3], orientation))
    planes = [Image.fromarray(DEEP[..., i].astype(np.int32)) for i in range(3)]
    tag = Image.Exif()
    tag[BASE.Orientation] = orientation
    expected = np.stack([np.asarray(upright(plane, tag)) for plane in planes], -1)
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(np.rint(65535 * read_picture(tmp_path / name).pixels), expected)


def upright(image, exif):
    file = io.BytesIO()
    image.save(file, "TIFF", exif=exif)
    return ImageOps.exif_transpose(Image.open(file))


@pytest.mark.parametrize("colour_type", [0, 2, 4, 6])
def test_16_bit_pngs_keep_their_values(tmp_path, colour_type):
    channels = {0: [0], 2: [0, 1, 2], 4: [0, 3], 6: [0, 1, 2, 3]}[colour_type]
    (tmp_path / "a.png").write_bytes(png16(DEEP[..., channels], colour_type))
    picture = read_picture(tmp_path / "a.png")
    colours = DEEP[..., :3] if colour_type in (2, 6) else DEEP[..., :1].repeat(3, -1)
    np.testing.assert_array_equal(np.rint(65535 * picture.pixels), colours)
    assert picture.pixels.dtype == np.float32 and picture.notes == ("16 bit",)
    if colour_type in (4, 6):
        np.testing.assert_array_equal(np.rint(65535 * picture.alpha), DEEP[..., 3])


def test_a_transparent_colour_of_16_bits_is_alpha(tmp_path):
    for colour_type, pixels in ((0, DEEP[..., 0]), (2, DEEP[..., :3])):
        key = np.atleast_1d(pixels[3, 4])
        (tmp_path / "a.png").write_bytes(png16(pixels, colour_type, png_chunk(b"tRNS", key.astype(">u2").tobytes())))
        alpha = read_picture(tmp_path / "a.png").alpha
        assert alpha[3, 4] == 0 and (alpha == 0).sum() < 4 and set(np.unique(alpha)) == {0, 1}


def test_16_bit_tiffs_keep_their_values(tmp_path):
    (tmp_path / "rgba.tif").write_bytes(tiff16(DEEP))
    picture = read_picture(tmp_path / "rgba.tif")
    np.testing.assert_array_equal(np.rint(65535 * picture.pixels), DEEP[..., :3])
    np.testing.assert_array_equal(np.rint(65535 * picture.alpha), DEEP[..., 3])
    cv2.imwrite(str(tmp_path / "packed.tif"), DEEP[..., 2::-1])  # LZW
    np.testing.assert_array_equal(np.rint(65535 * read_picture(tmp_path / "packed.tif").pixels), DEEP[..., :3])
    save(tmp_path / "grey.tif", Image.fromarray(DEEP[..., 0]))
    np.testing.assert_array_equal(np.rint(65535 * read_picture(tmp_path / "grey.tif").pixels[..., 2]), DEEP[..., 0])
    save(tmp_path / "float.tif", Image.fromarray(DEEP[..., 0] / np.float32(32768)))  # up to 2: white is 1
    np.testing.assert_allclose(read_picture(tmp_path / "float.tif").pixels[..., 1], (DEEP[..., 0] / 32768).clip(0, 1), atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb(tmp_path, mode):
    """White stays white and black black; alpha comes apart."""
    pixels = np.repeat(np.repeat(np.array([[0, 255], [255, 0]], np.uint8), 12, 0), 16, 1)
    white_and_black = Image.fromarray(pixels)
    if mode == "LAB":
        white_and_black = Image.merge("LAB", (white_and_black, *[Image.new("L", (32, 24), 128)] * 2))
    else:
        white_and_black = white_and_black.convert("RGB" if mode == "YCbCr" else mode)
    picture = read_picture(save(tmp_path / f"a.{MODES[mode]}", white_and_black))
    np.testing.assert_allclose(picture.pixels, np.broadcast_to(pixels[..., None] / 255, (24, 32, 3)), atol=3 / 255)
    assert picture.alpha is None  # opaque everywhere
    assert picture.notes == {"CMYK": ("CMYK",), "LAB": ("LAB",), "P": ("palette",)}.get(mode, ())


def test_colours_under_transparency_are_kept(tmp_path):
    rgba = np.dstack([PHOTO, np.linspace(0, 255, 32).round().astype(np.uint8)[None].repeat(24, 0)])
    picture = read_picture(save(tmp_path / "a.png", Image.fromarray(rgba)))
    np.testing.assert_array_equal(np.rint(255 * picture.pixels), PHOTO)
    np.testing.assert_array_equal(np.rint(255 * picture.alpha), rgba[..., 3])
    palette = Image.fromarray(PHOTO).quantize(8)
    picture = read_picture(save(tmp_path / "b.png", palette, transparency=3))
    assert np.array_equal(picture.alpha == 0, np.asarray(palette) == 3)


def test_profiles_are_applied_and_named(tmp_path):
    """CMYK by a table of its own: black ink alone decides, its half is L* = 50, and that is 119."""
    p3 = icc.rgb_profile("Display P3", icc.parametric(*icc.SRGB_CURVE))
    red = Image.new("RGB", (20, 20), (200, 60, 50))
    for suffix in ("png", "jpg", "tif", "webp", "avif"):
        picture = read_picture(save(tmp_path / f"a.{suffix}", red, icc_profile=p3))
        assert picture.notes == ("Display P3 converted to sRGB",)
        assert picture.pixels[10, 10, 0] > 213 / 255 and picture.pixels[10, 10, 1] < 52 / 255  # more colourful than the numbers
    inks = icc.table_profile(b"CMYK", lambda c, m, y, k: 100 * (1 - k))
    save(tmp_path / "inks.tif", Image.new("CMYK", (20, 20), (200, 0, 0, 128)), icc_profile=inks)
    np.testing.assert_allclose(255 * read_picture(tmp_path / "inks.tif").pixels, np.full((20, 20, 3), 119.0), atol=2)


def test_a_camera_set_to_adobe_rgb_is_believed(tmp_path):
    """Its files have no profile (DCF 2.0)."""
    exif = Image.Exif()
    exif.get_ifd(IFD.Exif)[IFD.Interop] = {1: "R03"}
    green = Image.new("RGB", (20, 20), (120, 180, 90))
    picture = read_picture(save(tmp_path / "a.jpg", green, exif=exif, subsampling=0, quality=100))
    profile = icc.rgb_profile("Adobe RGB", icc.gamma(563 / 256))
    same = read_picture(save(tmp_path / "b.jpg", green, icc_profile=profile, subsampling=0, quality=100))
    assert picture.notes == same.notes == ("Adobe RGB converted to sRGB",)
    np.testing.assert_allclose(picture.pixels, same.pixels, atol=1e-4)
    assert same.pixels[0, 0, 0] < 0.42 < 120 / 255  # a red of 120 beside this green is less in sRGB


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
def test_exif_is_kept_but_for_what_would_be_wrong(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", exif=exif_with(6))
    kept, data = Image.Exif(), read_picture(path).exif
    kept.load(data)
    assert kept[BASE.Make] == "Maker" and kept[BASE.Copyright] == "Anna" and kept[BASE.Orientation] == 1
    assert kept.get_ifd(IFD.GPSInfo) == {1: "N", 2: (52.0, 31.0, 12.0)}
    assert kept.get_ifd(IFD.Exif) == {BASE.FNumber: 2.8, BASE.ColorSpace: 1}
    assert b"THUMB" not in data and not kept.get_ifd(IFD.IFD1) and BASE.StripOffsets not in kept


def test_no_exif_and_broken_exif(tmp_path):
    assert read_picture(save(tmp_path / "a.jpg")).exif is None
    assert read_picture(save(tmp_path / "a.tif")).exif is None
    nowhere = read_picture(save(tmp_path / "b.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"))
    assert nowhere.exif is None and nowhere.pixels.shape == (24, 32, 3)
    latitude = b"\0\x02\0\x05\0\0\0\x03"  # tag 2, type 5 (rational), three of them
    assert latitude in exif_with(6)
    as_bytes = exif_with(6).replace(latitude, b"\0\x02\0\x01\0\0\0\x03")
    picture = read_picture(save(tmp_path / "c.jpg", exif=as_bytes))
    assert picture.exif is None and picture.notes == ("turned upright", "unreadable EXIF left out")
    assert picture.pixels.shape == (32, 24, 3)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif", "avif"])
def test_of_several_frames_the_first_is_read(tmp_path, suffix):
    frames = [Image.new("RGB", (32, 24), colour) for colour in ("red", "green", "blue")]
    picture = read_picture(save(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:]))
    assert "first of 3 frames" in picture.notes
    np.testing.assert_allclose(picture.pixels, np.broadcast_to(np.float32([1, 0, 0]), (24, 32, 3)), atol=3 / 255)


def test_a_phones_preview_is_no_frame(tmp_path):
    """Phones and cameras put previews and gain maps behind a JPEG (MPO)."""
    save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[Image.new("RGB", (8, 6))])
    picture = read_picture(tmp_path / "a.jpg")
    assert picture.notes == () and picture.pixels.shape == (24, 32, 3)


def test_a_bomb_is_seen_in_its_header(tmp_path):
    """Nothing of its 7.5 GB is laid out, and Pillow's own limit is where it was."""
    limit = Image.MAX_IMAGE_PIXELS
    (tmp_path / "bomb.png").write_bytes(forged_png(50000, 50000))
    tracemalloc.start()
    with pytest.raises(InputError, match="bomb.png is 50000x50000, 2500 megapixels; at most 200 are read"):
        read_picture(tmp_path / "bomb.png")
    assert tracemalloc.get_traced_memory()[1] < 1e6 and Image.MAX_IMAGE_PIXELS == limit
    tracemalloc.stop()
    with pytest.raises(InputError, match="damaged or truncated"):  # the user may lift the limit; below it Pillow has no say
        read_picture(save_bytes(tmp_path / "large.png", forged_png(20000, 100)), max_megapixels=2.0)
    with pytest.raises(InputError, match="at most 0.0001 are read"):
        read_picture(save(tmp_path / "small.png"), max_megapixels=1e-4)


def save_bytes(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_cut_anywhere_is_one_line(tmp_path, suffix):
    """No half picture, no other exception, no warning."""
    noise = Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 64, 3)).astype(np.uint8))
    whole = save(tmp_path / f"whole.{suffix}", noise).read_bytes()
    for share in (0.0, 0.002, 0.01, 0.05, 0.3, 0.6, 0.9):
        cut = save_bytes(tmp_path / f"cut.{suffix}", whole[: int(len(whole) * share)])
        with pytest.raises(InputError, match=f"cut.{suffix} ") as error:
            read_picture(cut)
        assert "\n" not in str(error.value)


def test_opencv_is_quiet_about_tags_it_does_not_know(tmp_path, capfd):
    whole = bytearray(tiff16(DEEP))
    (place,) = (i for i in range(10, 200, 12) if whole[i : i + 2] == struct.pack("<H", 274))
    whole[place : place + 2] = struct.pack("<H", 275)
    picture = read_picture(save_bytes(tmp_path / "a.tif", whole))
    np.testing.assert_array_equal(np.rint(65535 * picture.pixels), DEEP[..., :3])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("make", [lambda: png16(DEEP, 6), lambda: tiff16(DEEP)])
def test_16_bits_cut_anywhere_are_one_line_and_opencv_is_quiet(tmp_path, make, capfd):
    whole = make()
    for share in (0.05, 0.3, 0.6, 0.9):
        with pytest.raises(InputError, match="damaged|truncated|not an image"):
            read_picture(save_bytes(tmp_path / "cut", whole[: int(len(whole) * share)]))
    assert capfd.readouterr().err == ""


def test_no_pixels_no_image_no_file(tmp_path):
    reasons = {
        save_bytes(tmp_path / "zero.png", forged_png(0, 0)): "begins as a PNG file but is damaged, truncated, without pixels",
        save_bytes(tmp_path / "empty.png", b""): "is empty",
        save_bytes(tmp_path / "text.jpg", b"no photo\n"): "is not an image that can be read; give one of .jpg",
        save(tmp_path / "thin.png", Image.new("RGB", (32, 15))): "is 32x15; the shorter side must have at least 16",
        tmp_path / "missing.png": "does not exist",
        tmp_path: "is a folder without images",
    }
    os.mkfifo(tmp_path / "pipe.png")
    reasons[tmp_path / "pipe.png"] = "is not a file"
    for path, reason in reasons.items():
        with pytest.raises(InputError, match=f"^{path} {reason}") as error:
            read_picture(path)
        assert "\n" not in str(error.value)
    assert read_picture(tmp_path / "thin.png", min_side=1).pixels.shape == (15, 32, 3)


def test_the_content_decides_not_the_name(tmp_path):
    save(tmp_path / "a.png", format="JPEG", quality=100, subsampling=0)
    np.testing.assert_allclose(255 * read_picture(tmp_path / "a.png").pixels, PHOTO, atol=4)


def test_heic_names_the_extra_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    header = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(64)
    with pytest.raises(InputError, match=r"a.heic is a HEIC photo, which needs an extra: `pip install diffbir_jax\[heif\]`"):
        read_picture(save_bytes(tmp_path / "a.heic", header))


def test_heic_with_its_extra(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    path = save(tmp_path / "a.heic", Image.new("RGB", (64, 48), (250, 20, 10)), exif=exif_with(1))
    picture = read_picture(path)
    np.testing.assert_allclose(255 * picture.pixels, np.broadcast_to([250.0, 20, 10], (48, 64, 3)), atol=6)
    assert b"Maker" in picture.exif
    with pytest.raises(InputError, match="cut.heic"):
        read_picture(save_bytes(tmp_path / "cut.heic", path.read_bytes()[:-300]))


def test_twelve_odd_files(tmp_path):
    """Eight are read; of four the reason is named."""
    outcome = {}
    for name in make_odd_files(tmp_path):
        try:
            picture = read_picture(tmp_path / name)
            outcome[name] = (picture.pixels.shape[1::-1], *picture.notes)
        except InputError as error:
            outcome[name] = str(error).removeprefix(f"{tmp_path}/{name} ")
    assert len(outcome) == 12
    assert outcome.pop("truncated.jpg").startswith("is damaged or truncated")
    assert outcome.pop("text.jpg").startswith("is not an image")
    assert outcome.pop("bomb.png").startswith("is 50000x50000, 2500 megapixels")
    assert outcome.pop("one_pixel.png").startswith("is 1x1; the shorter side")
    assert outcome == {
        "alpha.png": ((96, 72),),
        "animated.gif": ((96, 72), "first of 12 frames", "palette"),
        "cmyk.jpg": ((96, 72), "CMYK"),
        "deep.png": ((96, 72), "16 bit"),
        "palette.png": ((96, 72), "palette"),
        "photo.avif": ((96, 72),),
        "rotated.jpg": ((96, 72), "turned upright"),
        "strip.png": ((20, 3000),),
    }


def test_what_is_written_is_read(tmp_path):
    write_picture(tmp_path / "a.png", PHOTO / 255)
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.float32
    np.testing.assert_array_equal(np.rint(image * 255), PHOTO)
    assert os.listdir(tmp_path) == ["a.png"]


def test_pixels_alone_have_transparency_laid_on_white(tmp_path):
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[:, 10:] = (255, 0, 0, 255)
    pixels[:, :5, 3] = 128
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image_uint8(tmp_path / "a.png")
    assert (image[:, :5] == 127).all() and (image[:, 5:10] == 255).all() and (image[:, 10:] == [255, 0, 0]).all()


def test_pixels_alone_have_no_depth_profile_or_orientation(tmp_path):
    Image.fromarray(np.full((16, 32), 32896, np.uint16)).save(tmp_path / "deep.png")
    assert (read_image_uint8(tmp_path / "deep.png") == 128).all()
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = Image.fromarray(np.full((16, 32), 128, np.uint8))
    grey.save(tmp_path / "linear.png", icc_profile=icc.grey_profile(icc.gamma(1.0)), exif=exif)
    image = read_image_uint8(tmp_path / "linear.png")
    assert image.shape == (32, 16, 3) and (image == 188).all()  # half of the light


def test_bad_files_are_named_by_the_pixels_alone(tmp_path):
    (tmp_path / "text.jpg").write_text("no photo\n")
    with pytest.raises(InputError, match="text.jpg is not an image"):
        read_image(tmp_path / "text.jpg")
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="at least 25"):
        read_image_uint8(tmp_path / "a.png", min_side=25)
