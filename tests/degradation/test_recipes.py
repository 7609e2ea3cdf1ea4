import math

import numpy as np
import pytest

from diffbir_jax.degradation.operations import apply
from diffbir_jax.degradation.recipes import RECIPES, Recipe, draw, find_recipe
from diffbir_jax.errors import InputError

RANGES = {  # REFERENCE: DiffBIR's supplement; sigma, downsample, noise, quality
    "codeformer": ((0.1, 12), (1, 12), (0, 15), (30, 100)),
    "face": ((0.1, 10), (0.8, 8), (0, 20), (60, 100)),
}


def fills(values, low, high, slack=0.0):
    """All in the range, and spread over it as a uniform draw is."""
    values = np.asarray(values)
    assert values.min() >= low - slack and values.max() <= high + slack
    counts, _ = np.histogram(values, bins=5, range=(low, high))
    assert counts.sum() >= 0.98 * values.size
    assert (np.abs(counts / values.size - 0.2) < 0.05).all()


@pytest.mark.parametrize("name", RANGES)
def test_draws_fill_the_ranges(name):
    rng = np.random.default_rng(0)
    drawn = [draw(find_recipe(name), rng, (1200, 900)) for _ in range(2000)]
    blurs, smaller, noises, jpegs, back, _ = zip(*drawn, strict=True)
    sigma, factor, noise, quality = RANGES[name]
    fills([b.sigma_x for b in blurs], *sigma)
    fills([b.sigma_y for b in blurs], *sigma)
    fills([1200 / s.height for s in smaller], *factor, slack=0.15)
    fills([n.sigma * 255 for n in noises], *noise)
    fills([j.quality for j in jpegs], *quality)
    turned = [b.rotation for b in blurs if b.sigma_x != b.sigma_y]
    fills(turned, -math.pi, math.pi)
    assert len(turned) / len(blurs) == pytest.approx(0.5, abs=0.04)
    assert {b.size for b in blurs} == {41}
    assert {(b.height, b.width) for b in back} == {(1200, 900)}
    assert len({n.seed for n in noises}) == 2000


def test_same_seed_same_degradation_and_replay_is_exact():
    image = np.random.default_rng(1).random((70, 50, 3), np.float32)
    first, second = (draw(RECIPES["codeformer"], np.random.default_rng(7), (70, 50)) for _ in range(2))
    assert first == second != draw(RECIPES["codeformer"], np.random.default_rng(8), (70, 50))
    replayed = eval(repr(first), vars(__import__("diffbir_jax.degradation.operations", fromlist=["*"])))  # stored as text
    result = apply(first, image)
    np.testing.assert_array_equal(result, apply(replayed, image))
    assert result.dtype == np.float32 and result.shape == image.shape
    assert 0 <= result.min() and result.max() <= 1


def test_tiny_images_survive_strong_downsampling():
    image = np.full((16, 3, 3), 0.25, np.float32)
    recipe = Recipe(downsample=(12, 12))
    assert apply(draw(recipe, np.random.default_rng(0), (16, 3)), image).shape == (16, 3, 3)


@pytest.mark.parametrize(
    "field, value",
    [
        ("sigma", (3.0, 1.0)),
        ("sigma", (0.0, 1.0)),
        ("downsample", (0.0, 4.0)),
        ("noise", (-1.0, 5.0)),
        ("quality", (30.0, 101.0)),
        ("kernel_kinds", ("iso", "round")),
        ("kernel_probabilities", (0.5, 0.6)),
        ("kernel_probabilities", (1.0,)),
        ("kernel_size", 40),
    ],
)
def test_bad_fields_are_named(field, value):
    with pytest.raises(InputError, match=f"^{field} is "):
        Recipe(**{field: value})


def test_unknown_recipe_lists_the_known_ones():
    with pytest.raises(InputError, match="'old'.*codeformer, face"):
        find_recipe("old")
