"""Recipes by name, and their ranges changed from a config."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from diffbir_jax.degradation.checks import Range as Range
from diffbir_jax.degradation.checks import nest, override
from diffbir_jax.degradation.drawing import draw as draw
from diffbir_jax.degradation.ranges import WIDE, Mixture, Recipe, SecondOrder, Shuffle, SinglePass
from diffbir_jax.errors import InputError

RECIPES = MappingProxyType(
    {
        "realesrgan": SecondOrder(),
        "codeformer": SinglePass(),
        "face": SinglePass(replace(WIDE, sigma=(0.1, 10.0)), downsample=(0.8, 8.0), noise=(0.0, 20.0), quality=(60, 100)),
        "bsrgan": Shuffle(),
    }
)


def find_recipe(name: str, overrides: Mapping[str, Any] = MappingProxyType({})) -> Recipe:
    """The recipe called `name`, or a mixture of several joined by "+", of which each image draws one with equal chance.

    Args:
        overrides: new values of its fields, nested or by dotted names, for example {"blur.sigma": [0.1, 8], "quality": (50, 90)};
            those of a mixture begin with the recipe, "codeformer.quality".

    Raises:
        InputError: no recipe has this name, no field has a name that `overrides` gives, or it refuses the value.
    """
    names = name.split("+")
    for each in names:
        if each not in RECIPES:
            raise InputError(f"no recipe is called {each!r}; give one of {', '.join(RECIPES)}, or several joined by +")
        if names.count(each) > 1:
            raise InputError(f"{each} is given twice in {name}; give each recipe once")
    if len(names) == 1:
        return override(RECIPES[name], overrides)
    return _mix(names, nest(overrides))


def _mix(names: list[str], overrides: dict[str, Any]) -> Mixture:
    for given, changes in overrides.items():
        if given not in names or not isinstance(changes, Mapping):
            raise InputError(f"{given} is no recipe of {'+'.join(names)}; begin with one of them, for example {names[0]}.{given}")
    return Mixture(tuple((each, override(RECIPES[each], overrides.get(each, {}), f"{each}.")) for each in names))
