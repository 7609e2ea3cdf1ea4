import numpy as np
import pytest

from diffbir_jax.degradation.kernels import sinc_kernel
from diffbir_jax.degradation.operations import Blur, CameraNoise, Jpeg, Quantise, Resize, Sinc, apply, apply_one, blur_kernel


@pytest.fixture
def photo():
    y, x = np.mgrid[:48, :64]
    return np.stack([x / 63, y / 47, (np.sin(x / 3) * np.cos(y / 4) + 1) / 2], -1).astype(np.float32)


def flat(*rgb: float, size: int = 64):
    return np.tile(np.float32(rgb), (size, size, 1))


@pytest.mark.parametrize(
    "blur",
    [
        Blur(21, 2.5, 2.5),
        Blur(21, 3.0, 1.2, 0.7),
        Blur(41, 12.0, 0.1, -2.0),
        Blur(21, 3.0, 1.2, 0.7, "generalised", 0.6),
        Blur(13, 2.0, 2.0, 0.0, "plateau", 1.4),
        Sinc(15, 1.3),
    ],
)
def test_blur_of_a_point_is_its_kernel(blur):
    point = flat(0.0, 0.0, 0.0, size=65)
    point[32, 32] = 1
    pad = 32 - blur.size // 2
    kernel = sinc_kernel(blur.size, blur.cutoff) if isinstance(blur, Sinc) else blur_kernel(blur)
    np.testing.assert_allclose(apply([blur], point)[pad : 65 - pad, pad : 65 - pad, 1], kernel, atol=1e-6)


@pytest.mark.parametrize(
    "operation",
    [Blur(41, 12.0, 12.0), Blur(41, 9.0, 3.0, 1.0), Sinc(21, 1.0), Resize(7, 90), Resize(9, 40, "area"), Resize(99, 33, "bicubic"),
     Jpeg(60), Quantise(), CameraNoise(1e-7, 1e-8, 1.5, 2.0, 1)],
)  # fmt: skip
def test_flat_colours_keep_their_colour(operation):
    """Red stays red through JPEG and the camera too: the channels are in their order."""
    assert np.abs(apply([operation], flat(200 / 255, 100 / 255, 50 / 255)) - np.float32([200, 100, 50]) / 255).max() < 3 / 255


@pytest.mark.parametrize("interpolation", ["area", "bilinear", "bicubic"])
def test_resize_gives_the_size(photo, interpolation):
    assert apply([Resize(5, 9, interpolation)], photo).shape == (5, 9, 3)
    assert apply([Resize(96, 90, interpolation)], photo).shape == (96, 90, 3)


def test_area_averages_and_the_others_sample():
    stripes = np.zeros((8, 8, 3), np.float32)
    stripes[::4] = 1
    assert apply([Resize(2, 8, "area")], stripes) == pytest.approx(0.25)
    assert apply([Resize(2, 8, "bilinear")], stripes) == pytest.approx(0)


def test_jpeg_is_worse_at_lower_quality(photo):
    errors = [np.square(apply([Jpeg(quality)], photo) - photo).mean() for quality in (10, 50, 98)]
    assert errors[0] > errors[1] > errors[2]


def test_quantised_values_are_the_levels_of_8_bits(photo):
    quantised = apply([Quantise()], photo * 1.5 - 0.2)
    np.testing.assert_array_equal(
        quantised, np.rint(np.clip(photo * 1.5 - 0.2, 0, 1) * np.float64(255)).astype(np.uint8) / np.float32(255)
    )
    assert quantised.min() == 0 and quantised.max() == 1


def test_what_is_no_operation_is_told():
    with pytest.raises(TypeError, match="not an operation: 3"):
        apply_one(3, flat(0.0, 0.0, 0.0))
