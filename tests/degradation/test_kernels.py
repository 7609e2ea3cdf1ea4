import numpy as np
import pytest
from golden import vectors
from scipy.special import j1

from diffbir_jax.degradation.kernels import (
    bessel_j1,
    gaussian_kernel,
    gaussian_taps,
    generalised_kernel,
    plateau_kernel,
    sinc_kernel,
)

GOLDEN = vectors("blur_kernels")
OURS = {
    "iso_21_s2.0": gaussian_kernel(21, 2.0, 2.0, 0.3),
    "aniso_21_s3.0_1.2_r0.7": gaussian_kernel(21, 3.0, 1.2, 0.7),
    "gen_iso_21_s2_b0.8": generalised_kernel(21, 2.0, 2.0, 0.3, 0.8),
    "gen_aniso_21_s3_1.2_r0.7_b2.5": generalised_kernel(21, 3.0, 1.2, 0.7, 2.5),
    "plateau_iso_21_s2_b1.5": plateau_kernel(21, 2.0, 2.0, 0.3, 1.5),
    "plateau_aniso_21_s3_1.2_r0.7_b1.5": plateau_kernel(21, 3.0, 1.2, 0.7, 1.5),
    "sinc_21_w1.2": sinc_kernel(21, 1.2),
    "sinc_13_w2.0_pad21": np.pad(sinc_kernel(13, 2.0), 4),
}


def test_every_kind_is_compared():
    assert OURS.keys() == GOLDEN.keys()


@pytest.mark.parametrize("name", OURS)
def test_kernel_is_the_original(name):
    np.testing.assert_allclose(OURS[name], GOLDEN[name], atol=1e-7)
    assert OURS[name].sum() == pytest.approx(1)


def test_isotropic_gaussian_separates():
    taps = gaussian_taps(21, 2.0)
    np.testing.assert_allclose(np.outer(taps, taps), GOLDEN["iso_21_s2.0"], atol=1e-7)


@pytest.mark.parametrize("rotation", [0.0, 1.0, np.pi / 2])
def test_kernel_has_the_covariance_asked_for(rotation):
    kernel = gaussian_kernel(41, 3.0, 1.5, rotation)
    y, x = np.mgrid[:41, :41] - 20
    covariance = np.array([[(kernel * a * b).sum() for a in (x, y)] for b in (x, y)])
    turn = np.array([[np.cos(rotation), -np.sin(rotation)], [np.sin(rotation), np.cos(rotation)]])
    np.testing.assert_allclose(covariance, turn @ np.diag([9.0, 2.25]) @ turn.T, atol=1e-3)


def test_sinc_passes_below_its_cutoff_and_stops_above():
    response = np.abs(np.fft.rfft2(sinc_kernel(101, 1.5), (256, 256)))
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None]) * 2 * np.pi
    assert np.abs(response[frequency < 1.3] - 1).max() < 0.1
    assert response[frequency > 1.7].max() < 0.1


def test_bessel_function_is_scipys():
    x = np.linspace(0, 150, 1001)
    np.testing.assert_allclose(bessel_j1(x), j1(x), atol=1e-10)
