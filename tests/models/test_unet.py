import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import relative, vectors

from diffbir_jax.errors import InputError
from diffbir_jax.models.attention import attention
from diffbir_jax.models.unet import UNet
from diffbir_jax.weights.tables.unet import rows
from diffbir_jax.weights.torch_format import from_torch, to_torch

DATA = Path(__file__).parent.parent / "data"
NET = UNet(channels=(32, 64), attention=(True, True), head_dim=16, context_dim=32)


def shapes(net):
    return jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]


def nhwc(x):
    return jnp.asarray(x.transpose(0, 2, 3, 1))


@pytest.fixture(scope="module")
def golden():
    tensors = vectors("unet_control")
    state = {k.removeprefix("unet."): v for k, v in tensors.items() if k.startswith("unet.")}
    params, unused = from_torch(state, rows(NET), shapes(NET))
    assert unused == []
    return tensors, state, params


@pytest.mark.parametrize(("name", "strength"), [("eps", 1.0), ("eps_half_control", 0.5), ("eps_no_control", None)])
def test_the_prediction_is_the_originals(golden, name, strength):
    tensors, _, params = golden
    recorded = [nhwc(v) for k, v in sorted(tensors.items()) if k.startswith("out.control.")]
    control = None if strength is None else tuple(strength * c for c in recorded)
    inputs = nhwc(tensors["in.z_t"]), jnp.asarray(tensors["in.t"].astype(np.int32)), jnp.asarray(tensors["in.context"])
    eps = jax.jit(lambda p, *x: NET.apply({"params": p}, *x))(params, *inputs, control)
    want = nhwc(tensors[f"out.{name}"])
    assert relative(f"unet_control {name}", eps, want) < 1e-5


def test_weights_survive_the_round_trip(golden):
    _, state, params = golden
    back = to_torch(params, rows(NET))
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[k], v) for k, v in state.items())


def test_every_released_key_has_its_place():
    manifest = json.loads((DATA / "manifests" / "unet.json").read_text())
    state = {k: np.broadcast_to(np.int8(0), shape) for k, shape in manifest.items()}
    assert from_torch(state, rows(UNet()), shapes(UNet()))[1] == []
    assert sum(v.size for v in jax.tree.leaves(shapes(UNet()))) == pytest.approx(865.9e6, rel=1e-4)


def test_without_text_or_attention_there_are_no_such_weights():
    attended = UNet(channels=(8, 8), blocks=1, attention=(False, True), head_dim=4, context_dim=None, groups=4)
    plain = UNet(channels=(8, 8), blocks=1, attention=(False, False), head_dim=4, context_dim=None, groups=4)
    block = shapes(attended)["mid_block"]["attentions_0"]["transformer_blocks_0"]
    assert set(block) == {"attn1", "norm1", "norm3", "ff"}
    assert not any("attentions_0" in level for level in shapes(plain).values())


@pytest.mark.parametrize("net", [
    UNet(channels=(8, 8, 16), blocks=1, attention=(False, True, False), head_dim=4, context_dim=None, groups=4),
    UNet(channels=(8, 8), blocks=1, attention=(False, False), head_dim=4, context_dim=None, groups=4),
])  # fmt: skip
def test_every_weight_has_a_key_of_its_own(net):
    params = jax.tree.map(lambda s: np.zeros(s.shape), shapes(net))
    assert len(to_torch(params, rows(net))) == len(jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("implementation", "queries", "keys"),
    [("chunked", 256, 77), ("chunked", 300, 77), ("chunked", 512, 77), ("xla", 300, 77), ("cpu", 300, 300), ("cpu", 300, 77)],
)
def test_attention_does_not_depend_on_its_implementation(implementation, queries, keys):
    q, k, v = (jax.random.normal(jax.random.key(i), (2, n, 2, 8)) for i, n in enumerate((queries, keys, keys)))

    @partial(jax.jit, static_argnums=3)
    @partial(jax.grad, argnums=(0, 1, 2), has_aux=True)
    def grads(q, k, v, name):
        out = attention(q, k, v, name)
        return jnp.sum(jnp.sin(out)), out

    for got, want in zip(jax.tree.leaves(grads(q, k, v, implementation)), jax.tree.leaves(grads(q, k, v, "einsum")), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_an_unknown_attention_is_named():
    x = jnp.zeros((1, 2, 1, 8))
    with pytest.raises(InputError, match="fast.*chunked, cpu, einsum, xla, cudnn, flash"):
        attention(x, x, x, "fast")


def test_the_shallow_part_given_its_own_deep_map_is_the_whole():
    """At every depth, within a level and at its border, with the same parameters."""
    net = UNet(channels=(8, 16), blocks=1, attention=(False, True), head_dim=8, context_dim=None, groups=4)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape, np.float32)), shapes(net))
    z, sides = rng.standard_normal((1, 8, 8, 4), np.float32), ((8, 8), (8, 8), (4, 8), (4, 16), (4, 16))
    control = tuple(rng.standard_normal((1, side, side, c), np.float32) for side, c in sides)

    @jax.jit
    def run(params, z, control):
        call = partial(net.apply, {"params": params}, z, jnp.array([500]), None)
        kept = [call(control, depth=depth) for depth in range(1, net.connections + 1)]
        return call(control), kept, [call(control[: i + 1], depth=i + 1, deep=deep) for i, (_, deep) in enumerate(kept)]

    whole, kept, shallow = run(params, z, control)
    assert len(kept) == 4 and [deep.shape[1:] for _, deep in kept] == [(8, 8, 8), (8, 8, 16), (4, 4, 16), (4, 4, 16)]
    for (prediction, _), again in zip(kept, shallow, strict=True):
        np.testing.assert_allclose(prediction, whole, atol=1e-5)
        np.testing.assert_allclose(again, whole, atol=1e-5)


def test_the_shortcut_adds_a_linear_map_that_starts_at_nothing_and_follows_t():
    net = UNet(channels=(8, 8), blocks=1, attention=(False, False), context_dim=None, groups=4, shortcut=True)
    z = jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
    params = net.init(jax.random.key(1), z, jnp.array([0, 500]), None)["params"]
    apply = jax.jit(lambda p, t, z: net.apply({"params": p}, z, t, None))
    assert not apply(params, jnp.array([0, 500]), z).any()
    params["shortcut"]["kernel"] = jax.random.normal(jax.random.key(2), (8, 4))
    one = apply(params, jnp.array([0, 0]), z)
    params["shortcut_scale"]["kernel"] = jax.random.normal(jax.random.key(3), params["shortcut_scale"]["kernel"].shape)
    assert one.any() and not np.allclose(apply(params, jnp.array([0, 0]), z), apply(params, jnp.array([500, 500]), z))
    before = apply(params, jnp.array([0, 0]), z)
    params["shortcut_gate"]["kernel"] = jnp.ones((8, 8))
    assert not np.allclose(apply(params, jnp.array([0, 0]), z), before)
