import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import relative, vectors

from diffbir_jax.errors import InputError
from diffbir_jax.metrics.fidelity import psnr
from diffbir_jax.model import load_model
from diffbir_jax.models import layerwise
from diffbir_jax.models.autoencoder import AutoencoderKL
from diffbir_jax.models.layerwise import Map, Walk, decode_layerwise, encode_layerwise
from diffbir_jax.weights.tables.autoencoder import rows
from diffbir_jax.weights.torch_format import from_torch

IMAGE = np.random.default_rng(0).random((1, 72, 104, 3), np.float32)
NET = AutoencoderKL(channels=(8, 16), blocks=1, groups=4, mid_attention=False, shortcut=True)


def random_params(net):
    """Every parameter random: norms' biases and what starts at zero too."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]
    return jax.tree.map(lambda x: np.float32(rng.standard_normal(x.shape) / np.prod(x.shape[:-1]) ** 0.5), shapes)


def whole(net, params, x, method):
    return np.asarray(jax.jit(lambda p, x: net.apply({"params": p}, x, method=method))(params, x))


def test_layer_by_layer_is_the_whole_network_and_other_sizes_compile_nothing_more():
    params, compiled = random_params(NET), []
    for image in (IMAGE, IMAGE[:, :40, :36]):
        latent = whole(NET, params, image, "encode")
        assert relative("encode", encode_layerwise(NET, params, image, 16, np.float32), latent) < 1e-5
        theirs = whole(NET, params, latent, "decode")
        assert relative("decode", decode_layerwise(NET, params, latent, 16, np.float32), theirs) < 1e-5
        compiled.append(layerwise._convolved._cache_size())
    assert compiled[0] == compiled[1]


def test_maps_smaller_than_a_tile_are_not_padded_to_it(monkeypatch):
    sides, run = [], layerwise._convolved
    monkeypatch.setattr(
        layerwise, "_convolved", lambda p, a, patch, *more, **how: sides.append(patch.shape[1]) or run(p, a, patch, *more, **how)
    )
    params, image = random_params(NET), IMAGE[:, :40, :36]
    latent = encode_layerwise(NET, params, image, 256, np.float32)
    assert relative("encode", latent, whole(NET, params, image, "encode")) < 1e-5
    assert set(sides) == {64 + 2, 64 + 1, 32 + 2}


def test_layer_by_layer_is_the_original(monkeypatch):
    monkeypatch.setattr(layerwise, "QUERIES", 24)  # several chunks, the last one short
    tensors, net = vectors("vae"), AutoencoderKL(channels=(32, 64, 64, 64))
    shapes = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]
    params, _ = from_torch({k.removeprefix("params."): v for k, v in tensors.items() if k.startswith("params.")}, rows(net), shapes)
    image = (tensors["in.image"].transpose(0, 2, 3, 1) + 1) / 2
    latent = encode_layerwise(net, params, image[:1], 16, np.float32) / net.scaling_factor
    assert relative("vae mean, layer by layer", latent, tensors["out.mean"][:1].transpose(0, 2, 3, 1)) < 1e-5
    decoded = decode_layerwise(
        net, params, tensors["in.z"][:1].transpose(0, 2, 3, 1) * np.float32(net.scaling_factor), 16, np.float32
    )
    assert relative("vae decoded, layer by layer", 2 * decoded - 1, tensors["out.decoded"][:1].transpose(0, 2, 3, 1)) < 1e-5


def test_half_precision_maps_keep_60_db():
    model = load_model("tiny")
    net, params = model.nets["autoencoder"], model.params["autoencoder"]
    image = IMAGE[:, :64, :96]
    latent = whole(net, params, image, "encode")
    assert relative("latent", encode_layerwise(net, params, image, 48), latent) < 1e-4
    assert psnr(decode_layerwise(net, params, latent, 48), whole(net, params, latent, "decode")) > 60


def test_maps_beyond_half_precision_keep_a_unit():
    params = random_params(NET)
    for block in params["decoder"]["up_blocks_1"].values():
        block["conv2"]["kernel"] *= 3e5
    params["decoder"]["up_blocks_1"]["resnets_0"]["conv_shortcut"]["kernel"] *= 1e5
    latent = np.random.default_rng(3).standard_normal((1, 40, 40, 4), np.float32)
    theirs = whole(NET, params, latent, "decode")
    assert relative("decode, float16", decode_layerwise(NET, params, latent, 34), theirs) < 2e-3


def test_norms_see_the_whole_map():
    net = AutoencoderKL(channels=(8,), groups=4)
    walk, rng = Walk(net, 16, np.float32), np.random.default_rng(2)
    conv = {"kernel": rng.standard_normal((3, 3, 2, 8), np.float32), "bias": np.full(8, 30, np.float32)}
    x = walk.conv(conv, Map(rng.standard_normal((1, 50, 37, 2), np.float32)))
    np.testing.assert_allclose(x.mean, x.values.mean((0, 1, 2), np.float64), rtol=1e-6)
    np.testing.assert_allclose(x.variance, x.values.var((0, 1, 2), np.float64), rtol=1e-5)
    factor, summand = walk.norm({"scale": np.ones(8), "bias": np.zeros(8)}, x)
    normed = (x.values * factor + summand).reshape(-1, 4, 2)
    np.testing.assert_allclose(normed.mean((0, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(normed.std((0, 2)), 1, atol=1e-4)


def test_an_odd_tile_is_refused():
    with pytest.raises(InputError, match="tile is 33; give an even number"):
        decode_layerwise(NET, {}, jnp.zeros((1, 8, 8, 4)), 33)
