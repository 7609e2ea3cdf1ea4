import json

import numpy as np
import pytest

from diffbir_jax.degradation.recipes import RECIPES, draw
from diffbir_jax.degradation.storage import OPERATIONS, from_json, to_json
from diffbir_jax.errors import InputError


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_drawn_comes_back_to_the_last_bit(name):
    rng = np.random.default_rng(0)
    for _ in range(40):
        operations = draw(RECIPES[name], rng, (300, 200))
        assert from_json(to_json(operations, recipe=name)) == (operations, {"recipe": name})


def test_the_recipes_draw_every_operation():
    rng = np.random.default_rng(0)
    assert {type(o) for name in RECIPES for _ in range(40) for o in draw(RECIPES[name], rng, (99, 99))} == set(OPERATIONS.values())


def test_fields_with_a_default_may_be_left_out():
    text = json.dumps({"operations": [{"operation": "Resize", "height": 3, "width": 4}]})
    assert from_json(text)[0][0].interpolation == "bilinear"


BLUR = {"operation": "Blur", "size": 7, "sigma_x": 1, "sigma_y": 2.0}


@pytest.mark.parametrize(
    "operation, told",
    [
        ({"operation": "Bloor"}, "is no operation; .*Blur, Sinc"),
        ("Blur", "is no operation"),
        ({"operation": "Quantise", "levels": 4}, "Quantise has no field levels"),
        ({"operation": "Blur", "size": 7, "sigma_x": 1.0}, "Blur lacks its field sigma_y"),
        (BLUR | {"size": 8}, "Blur.size is 8; give an odd number from 1 to 101"),
        (BLUR | {"sigma_x": 0}, "Blur.sigma_x is 0; give a number from 0.001 to 100"),
        (BLUR | {"sigma_x": "wide"}, 'Blur.sigma_x is "wide"; give a number'),
        (BLUR | {"kind": ["gaussian"]}, "Blur.kind is .*; give one of gaussian, generalised, plateau"),
        ({"operation": "Resize", "height": 2.5, "width": 2}, "Resize.height is 2.5; give a whole number"),
        ({"operation": "Jpeg", "quality": 101}, "Jpeg.quality is 101"),
        ({"operation": "GaussianNoise", "sigma": 0.1, "seed": 1, "grey": "no"}, "GaussianNoise.grey is .*; give true or false"),
        ({"operation": "GaussianNoise", "sigma": 0.1, "seed": -1}, "GaussianNoise.seed is -1"),
        ({"operation": "CorrelatedNoise", "mixing": [[1, 2], 3], "seed": 1}, "CorrelatedNoise.mixing is .*three lists of three"),
    ],
)
def test_what_cannot_be_replayed_is_told(operation, told):
    with pytest.raises(InputError, match=told):
        from_json(json.dumps({"operations": [operation]}))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"operations": {}}', "{}"])
def test_what_is_no_degradation_is_told(text):
    with pytest.raises(InputError, match="^no (JSON|degradation)"):
        from_json(text)


def test_whole_numbers_do_for_fractions():
    (blur,), _ = from_json(json.dumps({"operations": [BLUR]}))
    assert blur.sigma_x == 1.0
