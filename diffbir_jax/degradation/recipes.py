"""Recipes: the ranges from which a degradation is drawn, and the drawing."""

import math
from dataclasses import dataclass, fields

import numpy as np

from diffbir_jax.degradation.operations import Blur, GaussianNoise, Jpeg, Operation, Quantise, Resize
from diffbir_jax.errors import InputError

Range = tuple[int | float, int | float]


def _check_range(name: str, value: Range, least: int | float, most: int | float) -> None:
    if len(value) != 2 or not least <= value[0] <= value[1] <= most:
        raise InputError(f"{name} is {value}; give (min, max) with {least} <= min <= max <= {most}")


def _check_kinds(kinds: tuple[str, ...], probabilities: tuple[float, ...]) -> None:
    if not kinds or not set(kinds) <= {"iso", "aniso"}:
        raise InputError(f"kernel_kinds is {kinds}; give one or both of iso, aniso")
    if len(probabilities) != len(kinds) or min(probabilities) < 0 or abs(sum(probabilities) - 1) > 1e-6:
        raise InputError(f"kernel_probabilities is {probabilities}; give {len(kinds)} numbers of at least 0 that sum to 1")


@dataclass(frozen=True)
class Recipe:
    """The CodeFormer kind: blur, downsample, noise, JPEG, back to the first size (DiffBIR v1, section 3.1). Draws are uniform.

    Args:
        sigma: of the blur, in pixels; the two axes of an anisotropic kernel are drawn apart, its rotation from a full turn.
        downsample: the factor by which height and width are divided.
        noise: standard deviation of the Gaussian noise, of 255.
        quality: of the JPEG.
        kernel_kinds: "iso" and "aniso", drawn with `kernel_probabilities`.
        kernel_size: odd, in pixels.

    Raises:
        InputError: a field out of its bounds, by name.
    """

    sigma: Range = (0.1, 12.0)
    downsample: Range = (1.0, 12.0)
    noise: Range = (0.0, 15.0)
    quality: Range = (30, 100)
    kernel_kinds: tuple[str, ...] = ("iso", "aniso")
    kernel_probabilities: tuple[float, ...] = (0.5, 0.5)
    kernel_size: int = 41

    def __post_init__(self):
        for field in fields(self):  # lists, as configs hold them, become tuples: hashable and comparable
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, tuple(value) if isinstance(value, list) else value)
        for name, least, most in (("sigma", 1e-3, 100), ("downsample", 0.1, 100), ("noise", 0, 255), ("quality", 1, 100)):
            _check_range(name, getattr(self, name), least, most)
        _check_kinds(self.kernel_kinds, self.kernel_probabilities)
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise InputError(f"kernel_size is {self.kernel_size}; give an odd number, for example 41")


RECIPES = {
    "codeformer": Recipe(),
    "face": Recipe(sigma=(0.1, 10.0), downsample=(0.8, 8.0), noise=(0.0, 20.0), quality=(60, 100)),
}


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        InputError: no recipe has this name.
    """
    if name not in RECIPES:
        raise InputError(f"no recipe is called {name!r}; give one of {', '.join(RECIPES)}")
    return RECIPES[name]


def draw(recipe: Recipe, rng: np.random.Generator, size: tuple[int, int]) -> tuple[Operation, ...]:
    """Draws one degradation for an image of `size` (height, width). The operations hold all that was drawn."""
    height, width = size
    factor = rng.uniform(*recipe.downsample)
    return (
        draw_blur(recipe, rng),
        Resize(max(1, int(height // factor)), max(1, int(width // factor))),
        GaussianNoise(rng.uniform(*recipe.noise) / 255, seed=int(rng.integers(2**63))),
        Jpeg(round(rng.uniform(*recipe.quality))),
        Resize(height, width),
        Quantise(),
    )


def draw_blur(recipe: Recipe, rng: np.random.Generator) -> Blur:
    """The blur of one degradation."""
    kind = rng.choice(recipe.kernel_kinds, p=recipe.kernel_probabilities)
    sigma_x, sigma_y = rng.uniform(*recipe.sigma, size=2)
    if kind == "iso":
        return Blur(recipe.kernel_size, float(sigma_x), float(sigma_x))
    return Blur(recipe.kernel_size, float(sigma_x), float(sigma_y), rng.uniform(-math.pi, math.pi))
