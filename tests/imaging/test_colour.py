import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import relative, vectors

from diffbir_jax.imaging.colour import adain_colour_fix, wavelet_colour_fix, wavelet_colour_fix_in_strips

GOLDEN = vectors("colour_and_tiles")
CONTENT, STYLE, WAVELET = (GOLDEN[k].transpose(0, 2, 3, 1) for k in ("in.content", "in.style", "out.wavelet"))


def test_wavelet_fix_is_the_original():
    fixed = jax.jit(wavelet_colour_fix)(CONTENT, STYLE)
    assert relative("wavelet", fixed, WAVELET) < 1e-5


def test_wavelet_fix_takes_a_colour_cast_out():
    np.testing.assert_allclose(wavelet_colour_fix(jnp.asarray(STYLE) + 0.1, jnp.asarray(STYLE)), STYLE, atol=1e-6)


def test_adain_fix_takes_mean_and_deviation_over():
    fixed = adain_colour_fix(jnp.asarray(CONTENT), jnp.asarray(STYLE))
    np.testing.assert_allclose(fixed.mean((1, 2)), STYLE.mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(fixed.std((1, 2)), STYLE.std((1, 2)), rtol=1e-3)
    np.testing.assert_allclose(adain_colour_fix(fixed * 0.5 + 0.2, fixed), fixed, atol=1e-3)


@pytest.mark.parametrize("size", [None, (97, 41)])
@pytest.mark.parametrize("rows", [16, 256])
def test_strips_are_the_whole(size, rows):
    content, style = np.random.default_rng(0).random((2, 1, 150, 60, 3), np.float32)
    whole = np.asarray(jax.jit(wavelet_colour_fix)(jnp.asarray(content), jnp.asarray(style), size))
    strips = wavelet_colour_fix_in_strips(content, style, size, rows)
    height, width = size or (150, 60)
    np.testing.assert_allclose(strips[:, :height, :width], whole[:, :height, :width], atol=3e-7)
