"""Draws a degradation from a recipe: all chance is here and in the seeds of the noise, the operations are then fixed."""

from bisect import bisect_right
from collections.abc import Iterator
from functools import singledispatch
from itertools import accumulate
from math import log, pi

import numpy as np

from diffbir_jax.degradation import ranges
from diffbir_jax.degradation.checks import Number, Range
from diffbir_jax.degradation.operations import (
    Blur,
    CameraNoise,
    CorrelatedNoise,
    GaussianNoise,
    Jpeg,
    Operation,
    PoissonNoise,
    Quantise,
    Resize,
    Sinc,
)

Size = tuple[int, int]


def draw(recipe: ranges.Recipe, rng: np.random.Generator, size: Size) -> tuple[Operation, ...]:
    """Draws one degradation for an image of `size` (height, width). The operations hold all that was drawn."""
    return tuple(draw_steps(recipe, rng, size))


@singledispatch
def draw_steps(recipe, rng: np.random.Generator, size: Size) -> Iterator[Operation]:
    """The operations of one degradation, each drawn when it is asked for."""
    raise TypeError(f"not a recipe: {recipe!r}")


@draw_steps.register
def _(recipe: ranges.Mixture, rng: np.random.Generator, size: Size) -> Iterator[Operation]:
    _, chosen = recipe.recipes[rng.integers(len(recipe.recipes))]
    return draw_steps(chosen, rng, size)


@draw_steps.register
def _(recipe: ranges.SinglePass, rng: np.random.Generator, size: Size) -> Iterator[Operation]:
    yield draw_blur(recipe.blur, rng)
    yield Resize(*scaled(size, 1 / rng.uniform(*recipe.downsample)))
    yield GaussianNoise(rng.uniform(*recipe.noise) / 255, draw_seed(rng))
    yield Jpeg(draw_whole(recipe.quality, rng))
    yield Resize(*size)
    yield Quantise()


@draw_steps.register
def _(recipe: ranges.SecondOrder, rng: np.random.Generator, size: Size) -> Iterator[Operation]:
    last = scaled(size, 1 / recipe.scale)
    jpeg_last = rng.random() < recipe.jpeg_last
    yield from draw_pass(recipe.first, rng, size)
    yield Jpeg(draw_whole(recipe.first.quality, rng))
    yield from draw_pass(recipe.second, rng, last)
    if not jpeg_last:
        yield Jpeg(draw_whole(recipe.second.quality, rng))
    yield Resize(*last, draw_name(recipe.second.resize.interpolations, rng))
    if rng.random() < recipe.sharpened:
        yield Sinc(draw_odd(recipe.final_size, rng), rng.uniform(*recipe.final_cutoff))
    if jpeg_last:
        yield Jpeg(draw_whole(recipe.second.quality, rng))
    yield from enlarge(size)


def draw_pass(recipe: ranges.Pass, rng: np.random.Generator, size: Size) -> Iterator[Operation]:
    """Blur, resize relative to `size`, noise."""
    if rng.random() < recipe.blurred:
        yield draw_blur(recipe.blur, rng)
    yield Resize(*scaled(size, draw_factor(recipe.resize, rng)), draw_name(recipe.resize.interpolations, rng))
    yield draw_noise(recipe.noise, rng)


def draw_factor(resize: ranges.ResizeRanges, rng: np.random.Generator) -> float:
    """By which the sides are multiplied."""
    least, most = resize.factor
    direction = draw_index(resize.directions, rng)
    return [lambda: rng.uniform(max(1, least), most), lambda: rng.uniform(least, min(1, most)), lambda: 1.0][direction]()


def draw_noise(noise: ranges.NoiseRanges, rng: np.random.Generator) -> GaussianNoise | PoissonNoise:
    """Gaussian or Poisson noise, of colour or grey."""
    grey = bool(rng.random() < noise.grey)
    if rng.random() < noise.gaussian:
        return GaussianNoise(rng.uniform(*noise.sigma) / 255, draw_seed(rng), grey)
    return PoissonNoise(rng.uniform(*noise.scale), draw_seed(rng), grey)


@draw_steps.register
def _(recipe: ranges.Shuffle, rng: np.random.Generator, size: Size) -> Iterator[Operation]:
    last = scaled(size, 1 / recipe.scale)
    resizes = iter(draw_resizes(recipe, rng, size, last))  # in this order, wherever they are in the shuffle
    steps = {
        "blur": lambda: draw_blur(recipe.blur, rng),
        "resize": lambda: next(resizes),
        "noise": lambda: draw_shuffled_noise(recipe, rng),
        "jpeg": lambda: Jpeg(draw_whole(recipe.quality, rng)),
        "camera": lambda: draw_camera(recipe, rng),
    }
    for name in rng.permutation(["blur", "blur", "resize", "resize", "noise", "jpeg", "camera"]):
        chance = {"jpeg": recipe.jpeg, "camera": recipe.camera}.get(str(name), 1)
        if rng.random() < chance and (step := steps[str(name)]()):
            yield step
    yield Jpeg(draw_whole(recipe.quality, rng))
    yield from enlarge(size)


def draw_resizes(recipe: ranges.Shuffle, rng: np.random.Generator, size: Size, last: Size) -> Iterator[Resize | None]:
    """The two resamplings of the shuffle; None where the first is left out."""
    if rng.random() < recipe.downsampled:
        yield Resize(*scaled(size, 1 / rng.uniform(*recipe.downsample)), draw_name(recipe.interpolations, rng))
    else:
        yield None
    yield Resize(*last, draw_name(recipe.interpolations, rng))


def draw_shuffled_noise(recipe: ranges.Shuffle, rng: np.random.Generator) -> GaussianNoise | CorrelatedNoise:
    """Gaussian noise; correlated, its covariance has a random basis and eigenvalues uniform up to sigma² (BSRGAN, section 3.3)."""
    kind, sigma = draw_name(recipe.noise_kinds, rng, recipe.noise_probabilities), rng.uniform(*recipe.noise) / 255
    if kind != "correlated":
        return GaussianNoise(sigma, draw_seed(rng), kind == "grey")
    basis, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    mixing = sigma * np.sqrt(rng.random(3))[:, None] * basis
    return CorrelatedNoise(tuple(map(tuple, mixing.tolist())), draw_seed(rng))


def draw_camera(recipe: ranges.Shuffle, rng: np.random.Generator) -> CameraNoise:
    """The camera of one degradation."""
    shot, read = (float(np.exp(rng.uniform(*map(log, limits)))) for limits in (recipe.shot, recipe.read))
    return CameraNoise(shot, read, rng.uniform(*recipe.gain), rng.uniform(*recipe.gain), draw_seed(rng))


def draw_blur(blur: ranges.BlurRanges, rng: np.random.Generator) -> Blur | Sinc:
    """A kernel."""
    size = draw_odd(blur.size, rng)
    if rng.random() < blur.sinc:
        return Sinc(size, rng.uniform(*(blur.small_cutoff if size < 13 else blur.cutoff)))
    family, _, iso = draw_name(blur.kinds, rng, blur.probabilities).rpartition("_")
    sigma_x = rng.uniform(*blur.sigma)
    sigma_y, rotation = (sigma_x, 0.0) if iso == "iso" else (rng.uniform(*blur.sigma), rng.uniform(-pi, pi))
    if not family:
        return Blur(size, sigma_x, sigma_y, rotation)
    return Blur(size, sigma_x, sigma_y, rotation, family, draw_beta(getattr(blur, f"{family}_beta"), rng))


def draw_beta(limits: Range, rng: np.random.Generator) -> float:
    """Below and above 1 with equal chance, as the original does; 1 itself where the range has no such part."""
    least, most = limits
    if rng.random() < 0.5:
        return rng.uniform(least, max(least, min(1, most)))
    return rng.uniform(min(most, max(1, least)), most)


def enlarge(size: Size) -> Iterator[Operation]:
    """The final image of 8 bits, bicubic, to `size`; 8 bits again, so that a PNG holds exactly what a network sees."""
    yield Quantise()
    yield Resize(*size, "bicubic")
    yield Quantise()


def scaled(size: Size, factor: Number) -> Size:
    """The size times a factor, at least a pixel."""
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))


def draw_name(names: tuple[str, ...], rng: np.random.Generator, probabilities: tuple[Number, ...] | None = None) -> str:
    """One of the names, equally likely where no probabilities are given."""
    return names[draw_index(probabilities, rng) if probabilities else rng.integers(len(names))]


def draw_index(probabilities: tuple[Number, ...], rng: np.random.Generator) -> int:
    """As `rng.choice` with probabilities, in a tenth of its time."""
    sums = list(accumulate(probabilities))
    return bisect_right(sums, rng.random() * sums[-1])


def draw_whole(limits: Range, rng: np.random.Generator) -> int:
    """A whole number, both limits included."""
    return int(rng.integers(int(limits[0]), int(limits[1]) + 1))


def draw_odd(limits: Range, rng: np.random.Generator) -> int:
    """An odd number, both (odd) limits included."""
    return 2 * draw_whole((limits[0] // 2, limits[1] // 2), rng) + 1


def draw_seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**63))
