import json
import zlib
from pathlib import Path

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.models.scunet import SCUNet
from diffbir_jax.weights.tables.scunet import rows
from diffbir_jax.weights.torch_format import from_torch, to_torch

DATA = Path(__file__).parent.parent / "data"
NET = SCUNet(config=(2, 1, 1, 1, 1, 1, 2))


def shapes(net):
    return jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]


def seeded_weight(key, shape):
    """The weight that the recorded run gave the original under `key`: 5.6 M of them are too many to store.

    RandomState's stream is frozen by NumPy's compatibility policy.
    """
    draws = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    return (draws / np.prod(shape[1:]) ** 0.5 if len(shape) in (2, 4) else draws).astype(np.float32)


@pytest.fixture(scope="module")
def weights():
    """The state in the original's layout, and our parameters."""
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes(NET))
    state = {key: seeded_weight(key, value.shape) for key, value in to_torch(zeros, rows(NET)).items()}
    params, unused = from_torch(state, rows(NET), shapes(NET))
    assert unused == []
    return state, params


def test_the_image_is_the_originals(weights):
    tensors = golden.vectors("scunet")
    reg = jax.jit(NET.apply)({"params": weights[1]}, jnp.asarray(tensors["in.lq"].transpose(0, 2, 3, 1)))
    want = tensors["out.reg"].transpose(0, 2, 3, 1)
    assert golden.relative("scunet", reg, want) < 1e-5


def test_weights_survive_the_round_trip(weights):
    state, params = weights
    back = to_torch(params, rows(NET))
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[k], v) for k, v in state.items())


def test_every_released_key_has_its_place():
    manifest = json.loads((DATA / "manifests" / "scunet.json").read_text())
    state = {k: np.broadcast_to(np.int8(0), shape) for k, shape in manifest.items()}
    assert from_torch(state, rows(SCUNet()), shapes(SCUNet()))[1] == []
