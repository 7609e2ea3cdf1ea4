"""Whole trajectories of the original, 5 steps with small networks of random weights."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import relative, vectors

from diffbir_jax.diffusion.guidance import cfg, free, latent_guidance, rgb_guidance
from diffbir_jax.diffusion.noise import recorded
from diffbir_jax.diffusion.samplers import SAMPLERS
from diffbir_jax.diffusion.schedule import SCALED_LINEAR, ZERO_SNR
from diffbir_jax.models.autoencoder import AutoencoderKL
from diffbir_jax.models.control import LAControlNet
from diffbir_jax.models.unet import UNet
from diffbir_jax.weights.tables import autoencoder, control, unet
from diffbir_jax.weights.torch_format import from_torch

DATA = Path(__file__).parent.parent / "data"
SIZES = {"channels": (32, 64), "attention": (True, True), "head_dim": 16, "context_dim": 32}
UNET, CONTROL, VAE = UNet(**SIZES), LAControlNet(**SIZES), AutoencoderKL(channels=(32, 64), blocks=1)


def load(net, rows, tensors, prefix, parts=None):
    """Parameters of a network, or of some of its parts."""
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    shapes = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]
    return from_torch(state, rows, {part: shapes[part] for part in parts or shapes})[0]


def nhwc(x):
    return jnp.moveaxis(jnp.asarray(x), -3, -1)


@pytest.fixture(scope="module")
def golden():
    return vectors("trajectories") | vectors("samplers_dpmpp_2m")


@pytest.fixture(scope="module")
def sample(golden):
    tensors = vectors("unet_control")
    nets = {
        "unet": load(UNET, unet.rows(UNET), tensors, "unet."),
        "control": load(CONTROL, control.rows(CONTROL), tensors, "controlnet."),
        "vae": load(VAE, autoencoder.rows(VAE), golden, "decoder_vae.", ("decoder", "post_quant_conv")),
    }
    data = {name: nhwc(golden[f"in.{name}"]) for name in ("x_T", "noise", "cond_latent", "rgb_target")}
    text, no_text = golden["in.context"], golden["in.uncond_context"]

    def run(name="ddpm", schedule=SCALED_LINEAR, parameterisation="eps", w=None, rescaled=False, guide="", **options):
        @jax.jit
        def compiled(nets, data, text, no_text):
            def predict(z_t, t, c):
                maps = CONTROL.apply({"params": nets["control"]}, z_t, t, c["context"], c["cond_latent"])
                return UNET.apply({"params": nets["unet"]}, z_t, t, c["context"], maps)

            def decode(latent):
                return VAE.apply({"params": nets["vae"]}, latent, method="decode")

            cond = {"context": text, "cond_latent": data["cond_latent"]}
            guided = cfg(predict, cond, {**cond, "context": no_text}, w, rescaled) if w else lambda z_t, t: predict(z_t, t, cond)
            guides = {
                "latent": lambda: latent_guidance(data["cond_latent"], **options),
                "rgb": lambda: rgb_guidance(decode, (data["rgb_target"] + 1) / 2, **options),
            }
            sampler, guided_by = SAMPLERS[name], guides[guide]() if guide else free
            steps = sampler.rows(5, schedule, 0.0)
            denoise, start = sampler.denoiser(guided, schedule, parameterisation), sampler.start(data["x_T"], steps)
            return sampler.sample(denoise, start, steps, recorded(steps, data["noise"]), guided_by)

        return compiled(nets, data, text, no_text)

    return run


def difference(golden, name, ours):
    """The largest relative L2 distance of any step."""
    theirs = np.asarray(nhwc(golden[f"out.{name}"]))
    return max(relative(f"trajectories {name}", a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name, options", {
    "spaced_eps_cfg1": {},
    "spaced_eps_cfg4": {"w": 4.0},
    "spaced_eps_cfg4_rescaled": {"w": 4.0, "rescaled": True},
    "spaced_v_zsnr_cfg1": {"schedule": ZERO_SNR, "parameterisation": "v"},
    "guided_latent_s200_r1": {"guide": "latent", "scale": 200.0, "repeats": 1},
    "guided_latent_s200_r2": {"guide": "latent", "scale": 200.0, "repeats": 2},
    "guided_latent_s200_r1_t700_200": {"guide": "latent", "scale": 200.0, "repeats": 1, "window": (200, 700)},
    "guided_rgb_s50000_r1": {"guide": "rgb", "scale": 50000.0, "repeats": 1},
}.items())  # fmt: skip
def test_ddpm_goes_through_the_originals_states(golden, sample, name, options):
    z, trace = sample(**options)
    assert difference(golden, name, trace.z) < 1e-5
    np.testing.assert_array_equal(z, trace.z[-1])
    if "guide" in options:
        assert difference(golden, f"{name}_z0", trace.z0) < 1e-5


@pytest.mark.parametrize("sampler, name", [("ddim", "ddim_eta0_cfg1"), ("dpm++_2m", "dpmpp_2m_cfg1")])
def test_the_ode_samplers_end_where_the_originals_do(golden, sample, sampler, name):
    z, _ = sample(sampler)
    assert difference(golden, name, z) < 1e-5
