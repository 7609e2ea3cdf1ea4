import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from golden import relative, vectors

from diffbir_jax.models.control import ControlNet, LAControlNet, control_from_unet
from diffbir_jax.models.unet import UNet
from diffbir_jax.weights.tables import control as control_table
from diffbir_jax.weights.tables import unet as unet_table
from diffbir_jax.weights.torch_format import from_torch, to_torch

DATA = Path(__file__).parent.parent / "data"
SIZES = {"channels": (32, 64), "attention": (True, True), "head_dim": 16, "context_dim": 32}
NET, UNET = LAControlNet(**SIZES), UNet(**SIZES)


def shapes(net):
    return jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]


def nhwc(x):
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def load(net, table, prefix):
    state = {k.removeprefix(prefix): v for k, v in vectors("unet_control").items() if k.startswith(prefix)}
    params, unused = from_torch(state, table.rows(net), shapes(net))
    assert unused == []
    return params, state


@pytest.fixture(scope="module")
def golden():
    tensors = vectors("unet_control")
    z_t, cond_latent = nhwc(tensors["in.z_t"]), nhwc(tensors["in.cond_latent"])
    t, context = jnp.asarray(tensors["in.t"].astype(np.int32)), jnp.asarray(tensors["in.context"])
    outputs = {k.removeprefix("out."): nhwc(v) for k, v in tensors.items() if k.startswith("out.")}
    return (z_t, t, context), cond_latent, outputs


@jax.jit
def controlled(unet_params, params, inputs, cond_latent):
    control = NET.apply({"params": params}, *inputs, cond_latent)
    return control, UNET.apply({"params": unet_params}, *inputs, control)


def test_the_branch_is_the_originals(golden):
    inputs, cond_latent, outputs = golden
    control, eps = controlled(load(UNET, unet_table, "unet.")[0], load(NET, control_table, "controlnet.")[0], inputs, cond_latent)
    assert len(control) == 7
    for name, got in {**{f"control.{i:02}": c for i, c in enumerate(control)}, "eps": eps}.items():
        assert relative(f"unet_control {name}", got, outputs[name]) < 1e-5, name


def test_weights_survive_the_round_trip():
    params, state = load(NET, control_table, "controlnet.")
    back = to_torch(params, control_table.rows(NET))
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[k], v) for k, v in state.items())


def test_every_released_key_has_its_place():
    manifest = json.loads((DATA / "manifests" / "controlnet.json").read_text())
    state = {k: np.broadcast_to(np.int8(0), shape) for k, shape in manifest.items()}
    net = LAControlNet()
    assert from_torch(state, control_table.rows(net), shapes(net))[1] == []
    assert sum(v.size for v in jax.tree.leaves(shapes(net))) == pytest.approx(363.2e6, rel=1e-3)


def test_the_controlled_unet_starts_as_the_unet_bit_for_bit(golden):
    inputs, cond_latent, _ = golden
    unet_params, _ = load(UNET, unet_table, "unet.")
    control, eps = controlled(unet_params, control_from_unet(unet_params, NET), inputs, cond_latent)
    assert not any(c.any() for c in control)
    free = jax.jit(lambda p: UNET.apply({"params": p}, *inputs))(unet_params)
    assert jnp.array_equal(eps, free) and eps.any()


def test_the_branch_starts_as_a_copy_with_new_inputs_at_zero():
    unet_params, _ = load(UNET, unet_table, "unet.")
    source, start = flatten_dict(unet_params, sep="/"), flatten_dict(control_from_unet(unet_params, NET), sep="/")
    first = start.pop("conv_in/kernel")
    assert np.array_equal(first[:, :, :4], source["conv_in/kernel"]) and first.shape[2] == 8 and not first[:, :, 4:].any()
    for path, value in start.items():
        assert not value.any() if path.startswith("controlnet_") else np.array_equal(value, source[path]), path
    assert jax.tree.map(jnp.shape, control_from_unet(unet_params, NET)) == jax.tree.map(jnp.shape, shapes(NET))


def test_the_image_conditioned_branch_starts_silent_and_learns():
    sizes = {"channels": (8, 8), "blocks": 1, "attention": (False, True), "head_dim": 4, "context_dim": None, "groups": 4}
    net, unet = ControlNet(**sizes), UNet(**sizes)
    unet_params = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), shapes(unet))
    params = control_from_unet(unet_params, net, jax.random.key(1))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes(net))
    image = jax.random.uniform(jax.random.key(2), (1, 32, 32, 3))

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradient(params):
        control = net.apply({"params": params}, jnp.ones((1, 4, 4, 4)), jnp.zeros(1), None, image)
        return sum(c.sum() for c in control), control

    grads, control = gradient(params)
    assert [c.shape for c in control] == [(1, 4, 4, 8)] * 2 + [(1, 2, 2, 8)] * 3 and not any(c.any() for c in control)
    assert grads["controlnet_down_blocks_0"]["kernel"].any() and params["controlnet_cond_embedding"]["conv_in"]["kernel"].any()
