import jax
import numpy as np
import pytest
from golden import relative, vectors

from diffbir_jax.errors import InputError
from diffbir_jax.tiles import axis, gaussian_weights, grid


def test_the_gaussian_is_the_originals():
    golden = vectors("gaussian_weights")["out.gaussian_weights_64x48"]
    assert relative("gaussian weights", gaussian_weights(48, 64), golden) < 1e-6


@pytest.mark.parametrize(("length", "side", "overlap"), [(64, 16, 8), (61, 16, 8), (16, 16, 4), (100, 32, 0), (33, 32, 31)])
def test_windows_cover_and_end_at_the_border_and_weights_sum_to_one(length, side, overlap):
    starts, weights, used = axis(length, np.linspace(0.1, 1, side), overlap)
    total = np.zeros(length)
    for start, w in zip(np.asarray(starts), np.asarray(weights), strict=True):
        total[start : start + side] += w
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert starts[0] == 0 and starts[-1] == length - side and used == len(starts)
    assert np.diff(starts).max(initial=0) <= side - overlap


@pytest.mark.parametrize("covered", [7, 16, 17, 40, 64])
def test_traced_windows_are_those_of_a_map_of_the_covered_size(covered):
    profile = np.hanning(18)[1:-1]
    padded = jax.jit(lambda n: axis(64, profile, 8, n))(covered)
    exact = axis(max(covered, 16), profile, 8)
    np.testing.assert_array_equal(padded.starts[: padded.used], exact.starts)
    np.testing.assert_allclose(padded.weights[: padded.used], exact.weights, atol=1e-6)
    assert not padded.weights[padded.used :].any()


def test_an_overlap_as_large_as_a_tile_is_refused():
    with pytest.raises(InputError, match="overlap by 16; give an overlap of 0 to 15"):
        grid((32, 32), (16, 16), 16)
