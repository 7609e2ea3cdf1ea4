import numpy as np
import pytest

from diffbir_jax.degradation.kernels import gaussian_kernel
from diffbir_jax.degradation.operations import Blur, GaussianNoise, Jpeg, Quantise, Resize, apply


@pytest.fixture
def photo():
    y, x = np.mgrid[:48, :64]
    return np.stack([x / 63, y / 47, (np.sin(x / 3) * np.cos(y / 4) + 1) / 2], -1).astype(np.float32)


def flat(*rgb: float, size: int = 64):
    return np.tile(np.float32(rgb), (size, size, 1))


def test_noise_has_the_standard_deviation_asked_for():
    noisy = apply([GaussianNoise(0.1, seed=1)], flat(0.5, 0.5, 0.5, size=256)) - 0.5
    assert noisy.mean() == pytest.approx(0, abs=1e-3)
    assert noisy.std() == pytest.approx(0.1, rel=0.01)
    assert np.corrcoef(noisy[..., 0].ravel(), noisy[..., 1].ravel())[0, 1] == pytest.approx(0, abs=0.02)
    assert not np.array_equal(noisy, apply([GaussianNoise(0.1, seed=2)], flat(0.5, 0.5, 0.5, size=256)) - 0.5)


def test_noise_stays_in_range():
    noisy = apply([GaussianNoise(0.5, seed=0)], flat(0.0, 0.5, 1.0))
    assert noisy.min() == 0 and noisy.max() == 1


@pytest.mark.parametrize("blur", [Blur(21, 2.5, 2.5), Blur(21, 3.0, 1.2, 0.7), Blur(41, 12.0, 0.1, -2.0)])
def test_blur_of_a_point_is_its_kernel(blur):
    point = flat(0.0, 0.0, 0.0, size=65)
    point[32, 32] = 1
    blurred = apply([blur], point)[..., 1]
    pad = 32 - blur.size // 2
    kernel = gaussian_kernel(blur.size, blur.sigma_x, blur.sigma_y, blur.rotation)
    np.testing.assert_allclose(blurred[pad : 65 - pad, pad : 65 - pad], kernel, atol=1e-6)


@pytest.mark.parametrize("operation", [Blur(41, 12.0, 12.0), Blur(41, 9.0, 3.0, 1.0), Resize(7, 90), Jpeg(60), Quantise()])
def test_flat_colours_keep_their_colour(operation):
    """Red stays red through JPEG too: the channels are in their order."""
    assert np.abs(apply([operation], flat(200 / 255, 100 / 255, 50 / 255)) - np.float32([200, 100, 50]) / 255).max() < 3 / 255


def test_resize_gives_the_size(photo):
    assert apply([Resize(5, 9)], photo).shape == (5, 9, 3)


def test_jpeg_is_worse_at_lower_quality(photo):
    errors = [np.square(apply([Jpeg(quality)], photo) - photo).mean() for quality in (10, 50, 98)]
    assert errors[0] > errors[1] > errors[2]


def test_quantised_values_are_levels_of_8_bits(photo):
    levels = apply([Quantise()], photo * 1.5 - 0.2) * 255
    assert np.abs(levels - np.rint(levels)).max() < 1e-4
    assert levels.min() == 0 and levels.max() == 255
