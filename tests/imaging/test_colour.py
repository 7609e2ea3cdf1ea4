import jax
import jax.numpy as jnp
import numpy as np
from golden import relative, vectors

from diffbir_jax.imaging.colour import adain_colour_fix, wavelet_colour_fix

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
