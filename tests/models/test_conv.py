"""Winograd's convolution is the convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax import InputError
from diffbir_jax.models.conv import Conv3x3, winograd


def direct(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("size", [(8, 12), (7, 5), (1, 2)])
def test_winograd_is_the_convolution_with_its_gradients(size):
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.standard_normal(shape, np.float32)) for shape in ((2, *size, 6), (3, 3, 6, 5)))
    out, back = jax.vjp(direct, x, kernel)
    fast, fast_back = jax.vjp(winograd, x, kernel)
    for ours, theirs in ((fast, out), *zip(fast_back(out), back(out), strict=True)):
        assert float(jnp.linalg.norm(ours - theirs) / jnp.linalg.norm(theirs)) < 2e-6


def test_both_implementations_have_the_parameters_of_flax():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 8, 8, 4), np.float32))
    nets = [Conv3x3(3, name) for name in ("xla", "winograd")]
    a, b = (net.init(jax.random.key(0), x) for net in nets)
    assert jax.tree.map(jnp.shape, a) == {"params": {"kernel": (3, 3, 4, 3), "bias": (3,)}} == jax.tree.map(jnp.shape, b)
    np.testing.assert_allclose(nets[0].apply(a, x), nets[1].apply(a, x), atol=1e-5)


def test_an_unknown_implementation_is_refused():
    with pytest.raises(InputError, match="'fft'; give one of xla, winograd"):
        Conv3x3(3, "fft").init(jax.random.key(0), jnp.zeros((1, 4, 4, 2)))
