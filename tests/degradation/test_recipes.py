import pytest

from diffbir_jax.degradation.ranges import Mixture
from diffbir_jax.degradation.recipes import RECIPES, find_recipe
from diffbir_jax.errors import InputError


def test_recipes_are_plain_data():
    for name, recipe in RECIPES.items():
        assert find_recipe(name) == recipe and hash(find_recipe(name)) == hash(recipe)


def test_overrides_are_nested_or_dotted_and_leave_the_rest():
    nested = find_recipe("realesrgan", {"first": {"blur": {"sigma": [0.5, 2]}, "noise": {"grey": 1}}, "scale": 2})
    dotted = find_recipe("realesrgan", {"first.blur.sigma": (0.5, 2), "first.noise.grey": 1, "scale": 2})
    mixed = find_recipe("realesrgan", {"first": {"blur.sigma": [0.5, 2]}, "first.noise": {"grey": 1}, "scale": 2})
    assert nested == dotted == mixed
    assert nested.first.blur.sigma == (0.5, 2) and nested.first.noise.grey == 1 and nested.scale == 2
    assert nested.first.blur.size == (7, 21) and nested.second == RECIPES["realesrgan"].second
    assert find_recipe("codeformer", {"blur.kinds": "iso", "blur.probabilities": [1]}).blur.kinds == ("iso",)


def test_a_mixture_is_of_its_recipes():
    mixture = find_recipe("codeformer+realesrgan", {"codeformer.noise": (0, 3), "realesrgan": {"scale": 2}})
    assert mixture == Mixture(
        (("codeformer", find_recipe("codeformer", {"noise": (0, 3)})), ("realesrgan", find_recipe("realesrgan", {"scale": 2})))
    )


@pytest.mark.parametrize(
    "name, field, value",
    [
        ("codeformer", "blur.sigma", (3.0, 1.0)),
        ("codeformer", "blur.sigma", (0.0, 1.0)),
        ("codeformer", "blur.sigma", 3.0),
        ("codeformer", "blur.sigma", ("a", "b")),
        ("codeformer", "blur.sigma", (1.0, float("nan"))),
        ("codeformer", "blur.size", (40, 40)),
        ("codeformer", "blur.size", (7, 9.5)),
        ("codeformer", "blur.kinds", ("iso", "round")),
        ("codeformer", "blur.kinds", ("iso", "iso")),
        ("codeformer", "blur.kinds", ()),
        ("codeformer", "blur.probabilities", (0.5, 0.6)),
        ("codeformer", "blur.probabilities", (-0.5, 1.5)),
        ("codeformer", "blur.probabilities", (1.0,)),
        ("codeformer", "blur.probabilities", (float("nan"), 0.5)),
        ("codeformer", "downsample", (0.0, 4.0)),
        ("codeformer", "noise", (-1.0, 5.0)),
        ("codeformer", "quality", (30.0, 101.0)),
        ("codeformer", "quality", (30.5, 80)),
        ("codeformer", "quality", [{"min": 30}, 3]),
        ("realesrgan", "first.blur.sinc", 1.5),
        ("realesrgan", "first.blur.cutoff", (1.0, 4.0)),
        ("realesrgan", "first.blur", 3),
        ("realesrgan", "second.resize.directions", (0.5, 0.5)),
        ("realesrgan", "second.resize.interpolations", ("nearest",)),
        ("realesrgan", "second.noise.scale", (3, 2)),
        ("realesrgan", "second.blurred", "often"),
        ("realesrgan", "scale", 0),
        ("bsrgan", "noise_probabilities", (0.5, 0.5)),
        ("bsrgan", "shot", (0.0, 0.1)),
        ("codeformer+realesrgan", "codeformer.noise", (3, 2)),
    ],
)
def test_impossible_values_are_named(name, field, value):
    with pytest.raises(InputError, match=rf"^{field} is .*; (give|it has)") as error:
        find_recipe(name, {field: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("factor, directions", [((0.2, 0.8), (0.2, 0.7, 0.1)), ((1.1, 1.5), (0.2, 0.7, 0.1))])
def test_a_direction_out_of_reach_of_the_factor_is_refused(factor, directions):
    with pytest.raises(InputError, match=r"^first.resize.factor is "):
        find_recipe("realesrgan", {"first.resize": {"factor": factor, "directions": directions}})
    find_recipe("realesrgan", {"first.resize": {"factor": (0.2, 0.8), "directions": (0, 0.9, 0.1)}})


@pytest.mark.parametrize(
    "name, field, told",
    [
        ("codeformer", "sigma", "sigma is no field .* blur, downsample, noise, quality"),
        ("realesrgan", "first.blur.sigmas", "first.blur.sigmas is no field .* first.blur.sigma, "),
        ("codeformer+face", "noise", "noise is no recipe of codeformer.face; .* codeformer.noise"),
        ("codeformer+face", "face", "face is no recipe of .*, for example"),
    ],
)
def test_unknown_fields_are_told(name, field, told):
    with pytest.raises(InputError, match=f"^{told}"):
        find_recipe(name, {field: (0, 1)})


@pytest.mark.parametrize("name", ["old", "", "codeformer+", "codeformer+old"])
def test_unknown_recipes_list_the_known_ones(name):
    with pytest.raises(InputError, match="no recipe is called '(old)?'.*realesrgan, codeformer, face, bsrgan, or several"):
        find_recipe(name)


def test_a_recipe_is_mixed_once():
    with pytest.raises(InputError, match="face is given twice"):
        find_recipe("face+face")
