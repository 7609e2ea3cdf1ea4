import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import relative, vectors

from diffbir_jax.models.autoencoder import AutoencoderKL, balance, fit_shortcut
from diffbir_jax.weights.tables.autoencoder import rows
from diffbir_jax.weights.torch_format import from_torch, to_torch

DATA = Path(__file__).parent.parent / "data"
NET = AutoencoderKL(channels=(32, 64, 64, 64))


def difference(name, ours, theirs):
    return relative(f"vae {name}", ours, theirs.transpose(0, 2, 3, 1))


def shapes(net):
    return jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]


@pytest.fixture(scope="module")
def golden():
    tensors = vectors("vae")
    state = {k.removeprefix("params."): v for k, v in tensors.items() if k.startswith("params.")}
    params, unused = from_torch(state, rows(NET), shapes(NET))
    assert unused == []
    return tensors, state, params


def apply(method, params, x):
    return jax.jit(lambda p, x: NET.apply({"params": p}, x, method=method))(params, jnp.asarray(x))


def test_the_posterior_is_the_originals(golden):
    tensors, _, params = golden
    mean, logvar = apply("moments", params, (tensors["in.image"].transpose(0, 2, 3, 1) + 1) / 2)
    assert difference("mean", mean, tensors["out.mean"]) < 1e-5
    assert difference("logvar", logvar, tensors["out.logvar"]) < 1e-5


def test_the_decoder_is_the_originals(golden):
    tensors, _, params = golden
    image = apply("decode", params, tensors["in.z"].transpose(0, 2, 3, 1) * NET.scaling_factor)
    assert difference("decoded", 2 * image - 1, tensors["out.decoded"]) < 1e-5


def test_weights_survive_the_round_trip(golden):
    _, state, params = golden
    back = to_torch(params, rows(NET))
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[k], v) for k, v in state.items())


def test_every_released_key_has_its_place():
    manifest = json.loads((DATA / "manifests" / "vae.json").read_text())
    state = {k: np.broadcast_to(np.int8(0), shape) for k, shape in manifest.items()}
    net = AutoencoderKL()
    assert from_torch(state, rows(net), shapes(net))[1] == []


@pytest.mark.parametrize("levels", [1, 3])
def test_a_latent_is_smaller_by_the_downsampling_factor(levels):
    net = AutoencoderKL(channels=(8,) * levels, blocks=1, latent_channels=3, groups=4, mid_attention=False)
    image = jax.ShapeDtypeStruct((1, 8, 16, 3), jnp.float32)
    latent = jax.eval_shape(lambda p, x: net.apply({"params": p}, x, method="encode"), shapes(net), image)
    assert latent.shape == (1, 8 // net.downsampling_factor, 16 // net.downsampling_factor, 3)
    assert net.downsampling_factor == 2 ** (levels - 1)
    assert "attentions_0" not in shapes(net)["encoder"]["mid_block"]


def test_bfloat16_inside_float32_at_the_borders():
    net = AutoencoderKL(channels=(8, 8), blocks=1, groups=4, dtype=jnp.bfloat16)
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    assert jax.eval_shape(lambda p, x: net.apply({"params": p}, x), shapes(net), image).dtype == jnp.float32


def test_balancing_keeps_the_images_and_makes_variances_the_shares_in_them():
    net = AutoencoderKL(channels=(8, 8), blocks=1, groups=4, mid_attention=False, scaling_factor=1.0, shortcut=True)
    image = jnp.asarray(np.random.default_rng(0).random((4, 16, 16, 3), np.float32))
    params = fit_shortcut(net, net.init(jax.random.key(0), image)["params"], image)
    balanced = balance(net, params, image)
    before, after = (net.apply({"params": p}, image, method="encode") for p in (params, balanced))
    np.testing.assert_allclose(*(net.apply({"params": p}, image) for p in (params, balanced)), atol=1e-5)
    np.testing.assert_allclose(after.mean((0, 1, 2)), 0, atol=1e-5)
    share = before.std((0, 1, 2)) * jnp.linalg.norm(params["decoder_shortcut"]["kernel"], axis=1)
    np.testing.assert_allclose(after.var((0, 1, 2)), share / share.mean(), rtol=1e-3)
