"""What 2,000 draws of each recipe look like, against the ranges as REFERENCE and the papers state them, written out here."""

from functools import cache
from math import log, pi

import numpy as np
import pytest
from scipy import stats

from diffbir_jax.degradation.operations import (
    Blur,
    CameraNoise,
    CorrelatedNoise,
    GaussianNoise,
    Jpeg,
    PoissonNoise,
    Quantise,
    Resize,
    Sinc,
    apply,
)
from diffbir_jax.degradation.recipes import RECIPES, draw, find_recipe

SIDE = 4096  # so large that whole sizes say the factor to a thousandth
SIZE = (SIDE, SIDE)
METHODS = {"area": 1, "bilinear": 1, "bicubic": 1}
SINGLE = {  # sigma, downsample, noise of 255, quality
    "codeformer": ((0.1, 12), (1, 12), (0, 15), (30, 100)),
    "face": ((0.1, 10), (0.8, 8), (0, 20), (60, 100)),
}


@cache
def drawn(name):
    rng = np.random.default_rng(1)
    return [draw(find_recipe(name), rng, SIZE) for _ in range(2000)]


def every(name, kind):
    """The operations of a kind in all draws."""
    return [operation for operations in drawn(name) for operation in operations if isinstance(operation, kind)]


def uniform(values, low, high, slack=0.0):
    """All inside, up to both ends, and as a uniform draw is (Kolmogorov-Smirnov); ends moved by 12 / n of the width would show."""
    values, width = np.asarray(values, float), high - low
    assert values.size >= 100
    assert low - slack <= values.min() and values.max() <= high + slack
    assert values.min() < low + 12 / values.size * width and values.max() > high - 12 / values.size * width
    assert stats.kstest(values, "uniform", (low, width)).pvalue > 1e-3


def shared(values, weights):
    """Each value occurs as often as its weight says (chi-square), and no other."""
    values = list(values)
    assert set(values) == set(weights)
    counts, expected = [values.count(each) for each in weights], np.array(list(weights.values()), float)
    assert stats.chisquare(counts, expected / expected.sum() * len(values)).pvalue > 1e-3


def whole(values, low, high):
    shared(values, dict.fromkeys(range(low, high + 1), 1))


def odd(values, low, high):
    shared(values, dict.fromkeys(range(low, high + 1, 2), 1))


def passes():
    """Of realesrgan: the operations before the first JPEG, those after it up to the second noise, and the rest."""
    for operations in drawn("realesrgan"):
        noises = [i for i, operation in enumerate(operations) if isinstance(operation, GaussianNoise | PoissonNoise)]
        assert len(noises) == 2 and isinstance(operations[noises[0] + 1], Jpeg)
        yield operations[: noises[0] + 1], operations[noises[0] + 2 : noises[1] + 1], operations[noises[1] + 1 :], operations


def kind(blur):
    return f"{blur.kind} {'iso' if blur.sigma_x == blur.sigma_y else 'aniso'}"


@pytest.mark.parametrize("name", SINGLE)
def test_single_pass(name):
    blurs, smaller, noises, jpegs, back, last = zip(*drawn(name), strict=True)
    sigma, factor, noise, quality = SINGLE[name]
    uniform([b.sigma_x for b in blurs], *sigma)
    uniform([b.sigma_y for b in blurs], *sigma)
    uniform([b.rotation for b in blurs if b.sigma_x != b.sigma_y], -pi, pi)
    shared(map(kind, blurs), {"gaussian iso": 1, "gaussian aniso": 1})
    assert {b.size for b in blurs} == {41}
    uniform([SIDE / s.height for s in smaller], *factor, slack=0.05)
    uniform([n.sigma * 255 for n in noises], *noise)
    whole([j.quality for j in jpegs], *quality)
    assert {s.interpolation for s in smaller + back} == {"bilinear"}
    assert all(s.height == s.width for s in smaller) and set(back) == {Resize(*SIZE)} and set(last) == {Quantise()}
    assert len({n.seed for n in noises}) == 2000 and not any(n.grey for n in noises)


@pytest.mark.parametrize("index, sigma, blurred", [(0, (0.2, 3), 1), (1, (0.2, 1.5), 0.8)])
def test_second_order_blur(index, sigma, blurred):
    filters = [o for each in passes() for o in each[index] if isinstance(o, Blur | Sinc)]
    assert len(filters) / 2000 == pytest.approx(blurred, abs=0.03 * (blurred < 1))
    odd([f.size for f in filters], 7, 21)
    blurs, sincs = ([f for f in filters if isinstance(f, cls)] for cls in (Blur, Sinc))
    shared([type(f) for f in filters], {Blur: 0.9, Sinc: 0.1})
    shares = {"gaussian": (0.45, 0.25), "generalised": (0.12, 0.03), "plateau": (0.12, 0.03)}
    shared(
        map(kind, blurs),
        {f"{family} {axes}": p for family, both in shares.items() for axes, p in zip(("iso", "aniso"), both, strict=True)},
    )
    uniform([b.sigma_x for b in blurs], *sigma)
    turned = [b for b in blurs if b.sigma_x != b.sigma_y]
    uniform([b.sigma_y for b in turned], *sigma)
    uniform([b.rotation for b in turned], -pi, pi)
    generalised = np.array([b.beta for b in blurs if b.kind == "generalised"])
    uniform(generalised[generalised < 1], 0.5, 1)  # the original draws below or above 1 with equal chance
    uniform(generalised[generalised > 1], 1, 4)
    shared(generalised < 1, {True: 1, False: 1})
    plateau = np.array([b.beta for b in blurs if b.kind == "plateau"])
    uniform(plateau[plateau > 1], 1, 2)
    shared(plateau == 1, {True: 1, False: 1})
    small, large = ([s.cutoff for s in sincs if (s.size < 13) == less] for less in (True, False))
    assert pi / 3 <= min(small) < pi / 3 + 0.3 and max(small) > pi - 0.3
    assert pi / 5 <= min(large) < pi / 5 + 0.3 and max(large) > pi - 0.3


@pytest.mark.parametrize("index, directions, factor", [(0, (0.2, 0.7, 0.1), (0.15, 1.5)), (1, (0.3, 0.4, 0.3), (0.3, 1.2))])
def test_second_order_resize(index, directions, factor):
    resizes = [o for each in passes() for o in each[index] if isinstance(o, Resize)]
    assert len(resizes) == 2000 and all(r.height == r.width for r in resizes)
    shared([r.interpolation for r in resizes], METHODS)
    factors = np.array([r.height / SIDE * (1, 4)[index] for r in resizes])  # the second is relative to a quarter
    shared(np.sign(factors - 1), dict(zip((1, -1, 0), directions, strict=True)))
    uniform(factors[factors < 1], factor[0], 1, slack=0.001)
    uniform(factors[factors > 1], 1, factor[1])


@pytest.mark.parametrize("index, sigma, scale", [(0, (1, 30), (0.05, 3)), (1, (1, 25), (0.05, 2.5))])
def test_second_order_noise(index, sigma, scale):
    noises = [each[index][-1] for each in passes()]
    shared([type(n) for n in noises], {GaussianNoise: 0.5, PoissonNoise: 0.5})
    for cls in (GaussianNoise, PoissonNoise):
        shared([n.grey for n in noises if isinstance(n, cls)], {True: 0.4, False: 0.6})
    uniform([n.sigma * 255 for n in noises if isinstance(n, GaussianNoise)], *sigma)
    uniform([n.scale for n in noises if isinstance(n, PoissonNoise)], *scale)
    assert len({n.seed for n in noises}) == 2000


def test_second_order_ends_in_both_orders():
    rests = [each[2] for each in passes()]
    first = [each[3][len(each[0])] for each in passes()]
    jpegs = [next(o for o in rest if isinstance(o, Jpeg)) for rest in rests]
    whole([j.quality for j in first], 30, 95)
    whole([j.quality for j in jpegs], 30, 95)
    shared([isinstance(rest[0], Jpeg) for rest in rests], {True: 0.5, False: 0.5})
    sincs = [o for rest in rests for o in rest if isinstance(o, Sinc)]
    assert len(sincs) / 2000 == pytest.approx(0.8, abs=0.03)
    odd([s.size for s in sincs], 7, 21)
    uniform([s.cutoff for s in sincs], pi / 3, pi)
    resizes = [next(o for o in rest if isinstance(o, Resize)) for rest in rests]
    assert {(r.height, r.width) for r in resizes} == {(SIDE // 4, SIDE // 4)}
    shared([r.interpolation for r in resizes], METHODS)
    assert {rest[-3:] for rest in rests} == {(Quantise(), Resize(*SIZE, "bicubic"), Quantise())}
    for rest in rests:  # resize, then sinc where there is one; JPEG before or after both
        middle = [type(o) for o in rest[:-3]]
        middle.remove(Jpeg)
        assert middle in ([Resize], [Resize, Sinc]) and isinstance(rest[0], Jpeg) != isinstance(rest[-4], Jpeg)


def test_shuffle():
    blurs = every("bsrgan", Blur)
    assert len(blurs) == 4000
    odd([b.size for b in blurs], 7, 21)
    uniform([b.sigma_x for b in blurs], 0.1, 2.8)
    shared(map(kind, blurs), {"gaussian iso": 1, "gaussian aniso": 1})
    noises = every("bsrgan", GaussianNoise | CorrelatedNoise)
    shared(["correlated" if isinstance(n, CorrelatedNoise) else n.grey for n in noises], {False: 0.4, True: 0.4, "correlated": 0.2})
    uniform([n.sigma * 255 for n in noises if isinstance(n, GaussianNoise)], 2, 25)
    whole([j.quality for j in every("bsrgan", Jpeg)], 30, 95)
    assert len(every("bsrgan", Jpeg)) / 2000 == pytest.approx(1.9, abs=0.03)
    cameras = every("bsrgan", CameraNoise)
    assert len(cameras) / 2000 == pytest.approx(0.25, abs=0.03)
    uniform(np.log([c.shot for c in cameras]), log(1e-4), log(1.2e-2))
    uniform(np.log([c.read for c in cameras]), log(1e-6), log(5e-4))
    uniform([c.red_gain for c in cameras] + [c.blue_gain for c in cameras], 1.2, 2.4)


def test_shuffle_resizes_in_order_wherever_they_are():
    resizes = [[o for o in operations if isinstance(o, Resize)] for operations in drawn("bsrgan")]
    assert {(r[-2].height, r[-1]) for r in resizes} == {(SIDE // 4, Resize(*SIZE, "bicubic"))}
    first = [r[0] for r in resizes if len(r) == 3]
    assert len(first) / 2000 == pytest.approx(0.75, abs=0.03)
    uniform([SIDE / r.height for r in first], 1, 8, slack=0.01)
    shared([r.interpolation for r in first], METHODS)


def test_shuffle_shuffles():
    """The noise comes as often before as between or after the two blurs, or the two resizes, and before or after JPEG."""
    rows = [[type(o) for o in operations[:-4]] for operations in drawn("bsrgan")]  # without the last JPEG and the enlarging
    where = [next(i for i, cls in enumerate(row) if cls in (GaussianNoise, CorrelatedNoise)) for row in rows]
    shared([row[:i].count(Blur) for row, i in zip(rows, where, strict=True)], {0: 1, 1: 1, 2: 1})
    both = [(row, i) for row, i in zip(rows, where, strict=True) if row.count(Resize) == 2]
    shared([row[:i].count(Resize) for row, i in both], {0: 1, 1: 1, 2: 1})
    shared([row.index(Jpeg) < i for row, i in zip(rows, where, strict=True) if Jpeg in row], {True: 1, False: 1})


def test_correlated_noise_is_no_stronger_than_its_sigma():
    """The covariance's eigenvalues are uniform up to sigma², in a random basis: the channels do go together."""
    mixings = np.array([n.mixing for n in every("bsrgan", CorrelatedNoise)])
    covariances = mixings.transpose(0, 2, 1) @ mixings
    assert np.linalg.eigvalsh(covariances).max() <= (25 / 255) ** 2
    correlations = covariances[:, 0, 1] / np.sqrt(covariances[:, 0, 0] * covariances[:, 1, 1])
    assert np.abs(correlations).mean() > 0.2 and np.abs(correlations.mean()) < 0.1


def test_a_mixture_draws_each_recipe_half_the_time():
    recipe, rng = find_recipe("codeformer+realesrgan"), np.random.default_rng(0)
    shared([len(draw(recipe, rng, (64, 64))) == 6 for _ in range(2000)], {True: 0.5, False: 0.5})


@pytest.mark.parametrize("name", [*RECIPES, "codeformer+realesrgan"])
def test_same_seed_same_degradation(name):
    recipe, image = find_recipe(name), np.random.default_rng(1).random((70, 50, 3), np.float32)
    first, second = (draw(recipe, np.random.default_rng(7), (70, 50)) for _ in range(2))
    assert first == second != draw(recipe, np.random.default_rng(8), (70, 50))
    result = apply(first, image)
    np.testing.assert_array_equal(result, apply(second, image))
    assert result.dtype == np.float32 and result.shape == image.shape and 0 <= result.min() and result.max() <= 1
    np.testing.assert_array_equal(result, np.rint(result * 255).astype(np.uint8) / np.float32(255))  # what a PNG holds


@pytest.mark.parametrize("name", RECIPES)
def test_tiny_images_survive(name):
    image, rng = np.full((16, 3, 3), 0.25, np.float32), np.random.default_rng(0)
    for _ in range(30):
        assert apply(draw(RECIPES[name], rng, (16, 3)), image).shape == (16, 3, 3)
