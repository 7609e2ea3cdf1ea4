import cv2
import numpy as np
import pytest

from diffbir_jax.degradation.filtering import crop_kernel, filter_image
from diffbir_jax.degradation.kernels import gaussian_kernel, generalised_kernel, plateau_kernel, sinc_kernel

KERNELS = {
    "separable": gaussian_kernel(41, 12.0, 12.0, 0.0),
    "separable, axes apart": gaussian_kernel(21, 3.0, 0.5, 0.0),
    "little at the rim": gaussian_kernel(41, 1.0, 0.5, 1.0),
    "wide": gaussian_kernel(41, 9.0, 2.0, -2.0),
    "narrow": plateau_kernel(7, 2.0, 1.0, 0.5, 1.5),
    "heavy tails": plateau_kernel(21, 0.4, 0.6, 0.5, 1.2),
    "peaked": generalised_kernel(21, 2.0, 2.0, 0.0, 0.5),
    "sinc": sinc_kernel(21, 1.1),
    "sinc passing all": sinc_kernel(7, np.pi),
    "nothing": np.ones((1, 1)),
}


@pytest.mark.parametrize("size", [(70, 51), (30, 9), (5, 64), (1, 3)])
@pytest.mark.parametrize("name", KERNELS)
def test_the_cheap_way_is_the_plain_one(name, size):
    """Also for images smaller than the kernel; the reference is OpenCV's filter in float64."""
    image = np.random.default_rng(0).random((*size, 3), np.float32)
    before = image.copy()
    plain = cv2.filter2D(image.astype(np.float64), -1, KERNELS[name], borderType=cv2.BORDER_REFLECT_101)
    filtered = filter_image(image, KERNELS[name])
    np.testing.assert_allclose(filtered, plain, atol=1e-6)
    assert filtered.dtype == np.float32 and filtered.flags.c_contiguous
    np.testing.assert_array_equal(image, before)


def test_kernels_are_cropped_to_where_they_matter():
    assert len(crop_kernel(gaussian_kernel(41, 1.0, 0.5, 1.0))) < 15
    assert len(crop_kernel(gaussian_kernel(41, 12.0, 12.0, 1.0))) == 41
    assert np.abs(crop_kernel(gaussian_kernel(41, 2.0, 2.0, 0.0))).sum() == pytest.approx(1, abs=2e-7)
