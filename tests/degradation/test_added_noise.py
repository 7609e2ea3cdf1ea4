"""Of noise.py and photons.py: the moments and distributions that the operations name, on flat images."""

import numpy as np
import pytest
from scipy import stats

from diffbir_jax.degradation.operations import CameraNoise, CorrelatedNoise, GaussianNoise, PoissonNoise, apply
from diffbir_jax.degradation.photons import count_photons, draw_photons


def flat(*rgb: float, size: int = 256):
    return np.tile(np.float32(rgb), (size, size, 1))


def noise_on(operation, *rgb):
    image = flat(*rgb)
    before = image.copy()
    noisy = apply([operation], image)
    np.testing.assert_array_equal(image, before)
    assert noisy.dtype == np.float32 and noisy.shape == image.shape and 0 <= noisy.min() and noisy.max() <= 1
    return noisy - image


def correlation(noise):
    return np.corrcoef(noise.reshape(-1, 3).T)


@pytest.mark.parametrize("sigma", [1 / 255, 15 / 255, 30 / 255])
def test_gaussian_noise_is_normal_of_its_sigma(sigma):
    noise = noise_on(GaussianNoise(sigma, seed=1), 0.5, 0.5, 0.5)
    assert noise.mean() == pytest.approx(0, abs=sigma / 100)
    assert noise.std() == pytest.approx(sigma, rel=0.01)
    assert stats.kstest(noise.ravel()[::20] / sigma, "norm").pvalue > 1e-3
    np.testing.assert_allclose(correlation(noise), np.eye(3), atol=0.02)
    assert np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1] == pytest.approx(0, abs=0.02)  # white


def test_the_seed_decides():
    first, again, other = (noise_on(GaussianNoise(0.1, seed=seed), 0.5, 0.5, 0.5) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.corrcoef(first.ravel(), other.ravel())[0, 1] == pytest.approx(0, abs=0.02)


def test_noise_stays_in_range():
    noisy = apply([GaussianNoise(0.5, seed=0)], flat(0.0, 0.5, 1.0))
    assert noisy.min() == 0 and noisy.max() == 1


def test_grey_noise_is_the_same_in_all_channels():
    noise = noise_on(GaussianNoise(0.05, seed=1, grey=True), 0.4, 0.5, 0.6)
    assert noise.std(axis=(0, 1)) == pytest.approx([0.05] * 3, rel=0.01)
    np.testing.assert_allclose(noise - noise[..., :1], 0, atol=1e-6)
    poisson = noise_on(PoissonNoise(0.05, seed=1, grey=True), 0.4, 0.5, 0.6)
    np.testing.assert_allclose(poisson - poisson[..., :1], 0, atol=1e-6)


def test_correlated_noise_has_the_covariance_of_its_mixing():
    mixing = ((0.05, 0.02, 0.0), (0.0, 0.03, -0.04), (0.01, 0.0, 0.02))
    noise = noise_on(CorrelatedNoise(mixing, seed=1), 0.5, 0.5, 0.5)
    np.testing.assert_allclose(np.cov(noise.reshape(-1, 3).T), np.transpose(mixing) @ mixing, atol=3e-5)


@pytest.mark.parametrize("levels, white, scale", [(256, 256, 0.5), (100, 128, 0.5), (2, 2, 0.1)])
def test_poisson_variance_grows_with_brightness(levels, white, scale):
    """scale² v / white, where white is the next power of two of the levels in use."""
    values = np.linspace(60, 180, levels).round() if levels < 256 else np.arange(256)
    image = np.tile((values / 255).astype(np.float32)[:, None, None], (1, 120_000 // levels, 3))
    noise = apply([PoissonNoise(scale, seed=1)], image) - image
    inner = (values > 50) & (values < 200)  # where next to nothing is clipped
    np.testing.assert_allclose(noise.mean(axis=(1, 2))[inner], 0, atol=0.005)
    ratio = noise.var(axis=(1, 2))[inner] / (scale**2 * image[inner, 0, 0] / white)
    assert ratio.mean() == pytest.approx(1, abs=0.02)
    assert ratio.std() < 0.06


def test_grey_poisson_noise_has_the_variance_of_the_grey_image():
    ramp = np.tile((np.arange(256) / 255).astype(np.float32)[:, None, None], (1, 900, 3))
    noise = apply([PoissonNoise(1.0, seed=1, grey=True)], ramp)[60:180] - ramp[60:180]
    np.testing.assert_allclose(noise.var(axis=(1, 2)) / (ramp[60:180, 0, 0] / 256), 1, atol=0.2)


@pytest.mark.parametrize("white", [1, 16, 256])
@pytest.mark.parametrize("level", [1, 40, 255])
def test_photons_follow_poissons_law(white, level):
    rate = white * level / 255
    counts = draw_photons(np.full((1000, 100, 1), level, np.uint8), white, np.random.default_rng(3)).ravel()
    assert counts.mean() == pytest.approx(rate, abs=5 * (rate / 1e5) ** 0.5)
    law = stats.poisson(rate)
    edges = np.unique(law.ppf(np.linspace(0.01, 0.99, 30)))  # counts up to each edge, and the rest
    expected = np.diff(np.concatenate([[0], law.cdf(edges), [1]]))
    observed = np.bincount(np.searchsorted(edges, counts), minlength=expected.size)
    assert stats.chisquare(observed, expected * counts.size).pvalue > 1e-3


def test_no_photons_come_from_black_and_the_extremes_stay_possible():
    pixels = np.uint8([0, 128, 255]).reshape(1, 3, 1)
    low, high = (count_photons(pixels, 256, np.full_like(pixels, end, np.uint32)).ravel() for end in (0, 2**32 - 1))
    assert low[0] == high[0] == 0
    assert (low[1:] < [70, 170]).all() and (high[1:] > [190, 340]).all()


@pytest.mark.parametrize("value", [0.3, 0.7])
def test_camera_noise_has_the_variance_of_its_sensor(value):
    """On a grey image without white balance: at green pixels nothing is interpolated, so the raw variance is seen there."""
    shot, read = 0.002, 0.0001
    noisy = apply([CameraNoise(shot, read, 1.0, 1.0, seed=1)], flat(value, value, value))
    linear = noisy[..., 1].astype(np.float64) ** 2.2
    green = np.concatenate([linear[2:-2:2, 3:-2:2].ravel(), linear[3:-2:2, 2:-2:2].ravel()])  # RGGB
    assert green.mean() == pytest.approx(value**2.2, rel=0.01)
    assert green.var() == pytest.approx(shot * value**2.2 + read, rel=0.05)


def test_camera_noise_keeps_colours_and_odd_sizes():
    noisy = apply([CameraNoise(1e-6, 1e-8, 2.0, 1.5, seed=1)], flat(0.8, 0.4, 0.2, size=33))
    np.testing.assert_allclose(noisy.mean(axis=(0, 1)), [0.8, 0.4, 0.2], atol=0.01)
