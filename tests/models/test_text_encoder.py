import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import relative, vectors

from diffbir_jax.models.text_encoder import TextEncoder
from diffbir_jax.weights.tables.text_encoder import rows
from diffbir_jax.weights.torch_format import from_torch, to_torch

DATA = Path(__file__).parent.parent / "data"
NET = TextEncoder(width=64, layers=3, heads=4)
UNUSED = ["model.logit_scale", "model.text_projection"]


def shapes(net):
    return jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]


def apply(net, params, tokens):
    return jax.jit(lambda p, t: net.apply({"params": p}, t))(params, jnp.asarray(tokens, jnp.int32))


@pytest.fixture(scope="module")
def golden():
    """The golden vector, its embedding table rebuilt: the file keeps only the rows of tokens that occur."""
    tensors = vectors("clip_text")
    state = {k.removeprefix("params."): v for k, v in tensors.items() if k.startswith("params.")}
    table = np.zeros((NET.vocab_size, NET.width), np.float32)
    table[tensors["token_embedding.used"]] = tensors["token_embedding.rows"]
    state["model.token_embedding.weight"] = table
    params, unused = from_torch(state, rows(NET), shapes(NET))
    assert unused == UNUSED
    return tensors, state, params


def test_the_context_is_the_originals(golden):
    tensors, _, params = golden
    got, want = apply(NET, params, tensors["in.tokens"]), tensors["out.context"]
    assert relative("clip_text", got, want) < 1e-5


def test_weights_survive_the_round_trip(golden):
    _, state, params = golden
    back = to_torch(params, rows(NET))
    assert back.keys() == state.keys() - set(UNUSED)
    assert all(np.array_equal(v, state[k]) for k, v in back.items())


def test_every_released_key_has_its_place():
    manifest = json.loads((DATA / "manifests" / "clip_text.json").read_text())
    state = {k: np.broadcast_to(np.int8(0), shape) for k, shape in manifest.items()}
    net = TextEncoder()
    assert from_torch(state, rows(net), shapes(net))[1] == UNUSED
    assert sum(v.size for v in jax.tree.leaves(shapes(net))) == pytest.approx(353e6, rel=0.01)


def test_a_state_depends_on_no_later_token_and_not_on_the_last_layer():
    net = TextEncoder(width=16, layers=3, heads=2, vocab_size=50, context_length=12)
    tokens = jax.random.randint(jax.random.key(1), (2, 12), 0, 50)
    params = jax.jit(net.init)(jax.random.key(0), tokens)["params"]
    context = apply(net, params, tokens)
    changed = apply(net, params, tokens.at[:, 7].set((tokens[:, 7] + 1) % 50))
    np.testing.assert_array_equal(changed[:, :7], context[:, :7])
    assert (np.abs(changed[:, 7:] - context[:, 7:]).max(-1) > 0).all()
    params["text_model"]["encoder"]["layers"]["2"] = jax.tree.map(jnp.ones_like, params["text_model"]["encoder"]["layers"]["2"])
    np.testing.assert_array_equal(apply(net, params, tokens), context)


def test_bfloat16_inside_float32_at_the_borders():
    net = TextEncoder(width=16, layers=2, heads=2, vocab_size=50, context_length=12, dtype=jnp.bfloat16)
    tokens = jax.ShapeDtypeStruct((1, 12), jnp.int32)
    assert jax.eval_shape(lambda p, t: net.apply({"params": p}, t), shapes(net), tokens).dtype == jnp.float32
