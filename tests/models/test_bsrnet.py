import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import relative, vectors

from diffbir_jax.errors import InputError
from diffbir_jax.models.bsrnet import RRDBNet
from diffbir_jax.weights.tables.bsrnet import rows
from diffbir_jax.weights.torch_format import from_torch, to_torch

DATA = Path(__file__).parent.parent / "data"
NET = RRDBNet(features=16, blocks=2, growth=8)


def shapes(net):
    return jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]


@pytest.fixture(scope="module")
def golden():
    tensors = vectors("bsrnet")
    state = {k.removeprefix("params."): v for k, v in tensors.items() if k.startswith("params.")}
    params, unused = from_torch(state, rows(NET), shapes(NET))
    assert unused == []
    return tensors, state, params


def test_the_image_is_the_originals(golden):
    tensors, _, params = golden
    reg = jax.jit(NET.apply)({"params": params}, jnp.asarray(tensors["in.lq"].transpose(0, 2, 3, 1)))
    want = tensors["out.reg"].transpose(0, 2, 3, 1)
    assert relative("bsrnet", reg, want) < 1e-5


def test_weights_survive_the_round_trip(golden):
    _, state, params = golden
    back = to_torch(params, rows(NET))
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[k], v) for k, v in state.items())


def test_every_released_key_has_its_place():
    manifest = json.loads((DATA / "manifests" / "bsrnet.json").read_text())
    state = {k: np.broadcast_to(np.int8(0), shape) for k, shape in manifest.items()}
    assert from_torch(state, rows(RRDBNet()), shapes(RRDBNet()))[1] == []


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_the_output_is_scale_times_as_large(scale):
    net = NET.clone(scale=scale)
    variables = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())
    reg = jax.eval_shape(net.apply, variables, jax.ShapeDtypeStruct((2, 5, 7, 3), jnp.float32))
    assert reg.shape == (2, 5 * scale, 7 * scale, 3)


def test_a_scale_that_is_no_power_of_two_is_named():
    with pytest.raises(InputError, match="scale is 3; give a power of two"):
        shapes(NET.clone(scale=3))
