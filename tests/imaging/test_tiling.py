import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.imaging.tiling import tiled_image

IMAGE = np.random.default_rng(0).random((1, 48, 80, 3), np.float32)


def blur(image):
    padded = np.pad(image, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    return sum(padded[:, i : i + image.shape[1], j : j + image.shape[2]] for i in range(5) for j in range(5)) / 25


@pytest.mark.parametrize("tile", [(32, 32), (48, 32), (48, 80)])
def test_a_pointwise_network_is_not_changed(tile):
    np.testing.assert_allclose(tiled_image(lambda x: x**2, IMAGE, tile, 16), IMAGE**2, atol=1e-6)


def test_a_network_that_enlarges():
    twice = tiled_image(lambda x: jnp.repeat(jnp.repeat(x, 2, 1), 2, 2), IMAGE, (32, 32), 8)
    np.testing.assert_allclose(twice, IMAGE.repeat(2, 1).repeat(2, 2), atol=1e-6)


def test_what_a_tile_does_not_see_hardly_counts():
    tiled, whole = tiled_image(blur, IMAGE, (32, 32), 16), blur(IMAGE)
    assert np.abs(tiled - whole).max() < 2e-3 < np.abs(blur(IMAGE[:, :32, :32]) - whole[:, :32, :32]).max()
