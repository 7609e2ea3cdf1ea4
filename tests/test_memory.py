import dataclasses

import jax
import jax.numpy as jnp
import pytest

from diffbir_jax import memory
from diffbir_jax.memory import Tiled, needs, stage1_maps, what_to_tile
from diffbir_jax.model import load_model
from diffbir_jax.models.autoencoder import AutoencoderKL
from diffbir_jax.models.scunet import SCUNet
from diffbir_jax.options import RestoreOptions
from diffbir_jax.programs import cpu_options


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


def held(f, *arguments, stage="autoencoder"):
    """Bytes that a compiled program holds besides its arguments."""
    return jax.jit(f).lower(*arguments).compile(compiler_options=cpu_options([stage])).memory_analysis().temp_size_in_bytes


def grown(model, stage, **how):
    """What `needs` says that the network alone takes at 256x256."""
    return needs(model, (256, 256), (256, 256), **how)[stage] - memory._held(model.params, 256.0**2)


@pytest.mark.parametrize("stage", Tiled._fields)
def test_needs_are_what_xla_takes_and_somewhat_more(tiny, stage):
    image, latent = (jnp.zeros((1, n, n, c)) for n, c in ((256, 3), (32, 48)))

    def unet(p, z):
        t = jnp.zeros(1, jnp.int32)
        control = tiny.nets["control"].apply({"params": p["control"]}, z, t, None, z)
        return tiny.nets["unet"].apply({"params": p["unet"]}, z, t, None, control)

    runs = {
        "stage1": (lambda p, x: tiny.nets["stage1"].apply({"params": p["stage1"]}, x), image),
        "encode": (lambda p, x: tiny.nets["autoencoder"].apply({"params": p["autoencoder"]}, x, method="encode"), image),
        "diffusion": (unet, latent),
        "decode": (lambda p, x: tiny.nets["autoencoder"].apply({"params": p["autoencoder"]}, x, method="decode"), latent),
    }
    run, x = runs[stage]
    assert 1 < grown(tiny, stage) / held(run, tiny.params, x, stage=stage) < 2.2


@pytest.mark.parametrize("stage", ["encode", "decode"])
def test_an_autoencoder_in_place_needs_less(tiny, stage):
    net = AutoencoderKL((128, 256), 1, mid_attention=False, conv_implementation="cpu")
    model = dataclasses.replace(tiny, nets=tiny.nets | {"autoencoder": net})
    params = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())
    x = jax.ShapeDtypeStruct((1, 512, 512, 3) if stage == "encode" else (1, 256, 256, 4), jnp.float32)
    taken = held(lambda p, x: net.apply(p, x, method=stage), params, x)
    assert 1 < (needs(model, (512, 512), (512, 512))[stage] - memory._held(model.params, 512.0**2)) / taken < 1.5


def test_auto_tiles_what_does_not_fit(tiny):
    def tiled(side, budget, tiles="auto", batch=1):
        options = RestoreOptions(memory_budget=budget, tiles=tiles).completed(tiny.defaults)
        return what_to_tile(tiny, (side, side), (side, side), options, batch)

    assert tiled(512, "4GB") == Tiled(False, False, False, False)
    assert tiled(4096, "4GB").decode and tiled(4096, "4GB").encode
    assert not any(tiled(1024, "4GB")) and tiled(1024, "4GB", batch=8).decode
    assert tiled(512, "1MB") == tiled(512, "4GB", "on") == Tiled(True, True, True, True)
    assert tiled(4096, "1MB", "off") == Tiled(False, False, False, False)


def test_guidance_through_the_decoder_needs_its_backward_pass(tiny):
    net, z = tiny.nets["autoencoder"], jnp.zeros((1, 16, 16, 48))
    gradient = jax.grad(lambda z, p: (net.apply({"params": p}, z, method="decode") ** 2).mean())
    alone, rgb = (needs(tiny, (128, 128), (128, 128), rgb=rgb)["diffusion"] for rgb in (False, True))
    assert 1 < (rgb - alone) / held(gradient, z, tiny.params["autoencoder"]) < 2


def test_texts_batches_and_pixels_need_more(tiny):
    plain = needs(tiny, (512, 512), (512, 512))
    assert needs(tiny, (512, 512), (512, 512), text=True)["diffusion"] > plain["diffusion"]
    assert needs(tiny, (512, 512), (512, 512), rgb=True)["diffusion"] > plain["decode"]
    twice = needs(tiny, (512, 512), (512, 512), batch=2)
    assert all(twice[stage] > plain[stage] for stage in Tiled._fields)


def test_scunet_as_a_stage_1():
    net = SCUNet((1,) * 7)
    shapes = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]
    image = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
    assert 1 < memory.MARGIN * 4 * 128**2 * stage1_maps(net) / held(lambda p, x: net.apply({"params": p}, x), shapes, image) < 2


def test_what_is_available_is_less_than_a_machine_has():
    assert 1e8 < memory.available() < 1e14
    assert all(limit > 0 for limit in memory._limits())
