from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from diffbir_jax.degradation.kernels import gaussian_kernel, gaussian_taps

GOLDEN = load_file(Path(__file__).parents[1] / "data" / "blur_kernels.safetensors")


def test_isotropic_kernel_is_the_original_and_separates():
    taps = gaussian_taps(21, 2.0)
    np.testing.assert_allclose(np.outer(taps, taps), GOLDEN["iso_21_s2.0"], atol=1e-7)
    np.testing.assert_allclose(gaussian_kernel(21, 2.0, 2.0, 0.3), GOLDEN["iso_21_s2.0"], atol=1e-7)


def test_anisotropic_kernel_is_the_original():
    np.testing.assert_allclose(gaussian_kernel(21, 3.0, 1.2, 0.7), GOLDEN["aniso_21_s3.0_1.2_r0.7"], atol=1e-7)


@pytest.mark.parametrize("rotation", [0.0, 1.0, np.pi / 2])
def test_kernel_has_the_covariance_asked_for(rotation):
    kernel = gaussian_kernel(41, 3.0, 1.5, rotation)
    y, x = np.mgrid[:41, :41] - 20
    covariance = np.array([[(kernel * a * b).sum() for a in (x, y)] for b in (x, y)])
    turn = np.array([[np.cos(rotation), -np.sin(rotation)], [np.sin(rotation), np.cos(rotation)]])
    np.testing.assert_allclose(covariance, turn @ np.diag([9.0, 2.25]) @ turn.T, atol=1e-3)
    assert kernel.sum() == pytest.approx(1)
