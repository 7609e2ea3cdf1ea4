import numpy as np
import pytest

from diffbir_jax.imaging.resizing import enlarge, resize, short_edge


@pytest.mark.parametrize(
    ("size", "expected"), [((40, 50), (512, 640)), ((30, 30), (512, 512)), ((700, 600), (700, 600)), ((333, 100), (1704, 512))]
)
def test_the_shorter_side_is_enlarged_and_the_longer_rounded_down(size, expected):
    assert short_edge(size, 512) == expected


def ramp(height, width):
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([x / width, y / height, (x + y) / (height + width)], -1)


@pytest.mark.parametrize("size", [(64, 96), (16, 24)])
def test_a_ramp_stays_a_ramp(size):
    """Cubic interpolation reproduces straight lines; pixel centres keep their places. Edges apart."""
    inside = (slice(size[0] // 4, -size[0] // 4), slice(size[1] // 4, -size[1] // 4))
    for image in (resize(ramp(32, 48), size), enlarge(ramp(32, 48), size)):
        y, x = ((np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(size, (32, 48), strict=True))
        expected = np.stack(np.broadcast_arrays(x[None] / 48, y[:, None] / 32, (x[None] + y[:, None]) / 80), -1)
        assert np.abs(image - expected)[inside].max() < 0.005


@pytest.mark.witness
@pytest.mark.parametrize("size", [(50, 61), (20, 90), (13, 17)])
def test_resize_is_torchs_antialiased_bicubic(size):
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).random((32, 40, 3), np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.tensor(image.transpose(2, 0, 1)[None]), size=size, mode="bicubic", antialias=True
    )
    np.testing.assert_allclose(resize(image, size), theirs[0].numpy().transpose(1, 2, 0), atol=1e-5)
