import math

import numpy as np
import pytest
from golden import vectors
from metrics.conftest import NAMES, photo, worn

from diffbir_jax.errors import InputError
from diffbir_jax.metrics.fidelity import crop, luma, psnr, ssim


@pytest.mark.parametrize("name", NAMES)
def test_psnr_and_ssim_are_those_of_scikit_image(name):
    known, image, reference = vectors("metrics"), photo(name), worn(photo(name))
    for suffix, of in (("", lambda x: x), ("_y", luma)):
        assert psnr(of(image), of(reference)) == pytest.approx(known[f"psnr{suffix}/{name}"].item(), abs=1e-6)
        assert ssim(of(image), of(reference)) == pytest.approx(known[f"ssim{suffix}/{name}"].item(), abs=1e-6)


def test_psnr_of_a_constant_error_is_known():
    black = np.zeros((20, 30, 3), np.float32)
    assert psnr(black + np.float32(0.1), black) == pytest.approx(20, abs=1e-5)
    assert psnr(black, black) == math.inf


def test_ssim_of_constants_is_its_luminance_term():
    a, b = np.full((16, 16), 0.25), np.full((16, 16), 0.75)
    assert ssim(a, b) == pytest.approx((2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4))
    assert ssim(a, a) == pytest.approx(1)


def test_luma_of_white_and_black_is_that_of_video():
    assert luma(np.ones((1, 1, 3)))[0, 0] == pytest.approx(235 / 255, abs=1e-4)
    assert luma(np.zeros((1, 1, 3)))[0, 0] == pytest.approx(16 / 255)


def test_the_border_is_left_out():
    image = np.pad(np.zeros((12, 14, 3), np.float32), ((4, 4), (4, 4), (0, 0)), constant_values=1)
    assert crop(image, 4).shape == (12, 14, 3) and not crop(image, 4).any() and crop(image, 3).any()
    with pytest.raises(InputError, match="nothing is left of 22x20"):
        crop(image, 10)
    with pytest.raises(InputError, match="SSIM needs 11x11 pixels; this has 14x10"):
        ssim(image[:10, :14], image[:10, :14])
