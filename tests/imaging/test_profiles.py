import io
import time

import icc_profiles as icc
import numpy as np
import pytest
from PIL import Image, ImageCms

from diffbir_jax.imaging.profiles import srgb_icc, to_srgb

CURVES = {
    "gamma": icc.gamma(2.19921875),
    "linear": b"curv" + bytes(8),
    "table": icc.sampled(lambda x: x**1.8),
    "power": icc.parametric(2.0),
    "1966": icc.parametric(2.2, 0.95, 0.05),
    "3": icc.parametric(2.2, 0.9, 0.1, 0.0),
    "sRGB's": icc.parametric(*icc.SRGB_CURVE),
    "7": icc.parametric(*icc.SRGB_CURVE, 0.0, 0.0),
}


def noise(dtype, shape=(64, 64, 3)):
    return np.random.default_rng(0).integers(np.iinfo(dtype).max + 1, size=shape).astype(dtype)


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("primaries", ["Display P3", "Adobe RGB"])
def test_curves_and_a_matrix_are_littlecms(primaries, curve):
    """To a level of 255; LittleCMS computes these in 16-bit integers."""
    profile, pixels = icc.rgb_profile(primaries, CURVES[curve]), noise(np.uint8)
    ours, note = to_srgb(pixels, profile)
    profiles = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    colorimetric = ImageCms.Intent.RELATIVE_COLORIMETRIC  # the others move the black point
    theirs = np.asarray(ImageCms.profileToProfile(Image.fromarray(pixels), *profiles, colorimetric)).astype(float)
    assert note == f"{primaries} converted to sRGB"
    assert np.abs(255 * ours - theirs).max() < 1.5


def test_pure_green_of_adobe_rgb_leaves_srgb_and_is_clipped():
    pixels = np.zeros((1, 2, 3), np.uint8)
    pixels[..., 1] = 255, 128
    ours, _ = to_srgb(pixels, icc.rgb_profile("Adobe RGB", icc.gamma(563 / 256)))
    np.testing.assert_allclose(255 * ours, [[[0, 255, 0], [0, 129, 0]]], atol=0.1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_srgb_by_any_name_is_left_alone(dtype):
    pixels = noise(dtype)
    for profile in (srgb_icc(), icc.rgb_profile("sRGB", icc.parametric(*icc.SRGB_CURVE))):
        same, note = to_srgb(pixels, profile)
        assert same is pixels and note is None


def test_16_bits_stay_16_bits():
    """Display P3's greys are sRGB's: all 65536 levels come back, to a 25th of an 8-bit level (both whites are rounded)."""
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(3, -1)
    ours, _ = to_srgb(levels, icc.rgb_profile("Display P3", icc.parametric(*icc.SRGB_CURVE)))
    assert np.abs(ours * 65535 - levels).max() < 10
    assert len(np.unique(np.rint(ours[..., 1] * 65535))) > 65000


def test_a_grey_profile_is_its_curve():
    """Gamma 1: the value is the light, and sRGB's curve is that of its standard."""
    pixels = noise(np.uint16, (32, 32, 1)).repeat(3, -1)
    ours, note = to_srgb(pixels, icc.grey_profile(b"curv" + bytes(8)))
    light = pixels / 65535
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert note == "Grey converted to sRGB"


def test_tables_go_through_littlecms_and_16_bits_are_said_to_become_8():
    """Half of red becomes L* = 50, which sRGB has as 119, whatever green and blue say."""
    profile = icc.table_profile(b"RGB ", lambda r, g, b: 100 * r)
    half = np.tile(np.array([32768, 0, 50000], np.uint16), (4, 4, 1))
    ours, note = to_srgb(half, profile)
    assert np.abs(ours.astype(int) - 119).max() <= 1 and ours.dtype == np.uint8
    assert note == "Table converted to sRGB, in 8 bits"
    assert to_srgb(half.astype(np.uint8), profile)[1] == "Table converted to sRGB"


def test_a_damaged_profile_is_ignored_and_said():
    pixels, whole = noise(np.uint8), icc.rgb_profile("Display P3", CURVES["table"])
    for profile in (b"x" * 200, whole[:100], whole[:140], whole[:300], whole.replace(b"rTRC", b"xTRC"), whole[:128] + b"\xff" * 90):
        same, note = to_srgb(pixels, profile)
        assert same is pixels and note == "unreadable colour profile ignored"


def test_the_profile_of_results_does_not_depend_on_the_clock():
    first = srgb_icc()
    time.sleep(1.1)
    assert srgb_icc() == first
    assert ImageCms.getProfileName(ImageCms.ImageCmsProfile(io.BytesIO(first))).startswith("sRGB")
