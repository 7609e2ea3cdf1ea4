import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.diffusion.guidance import latent_guidance
from diffbir_jax.diffusion.noise import streams
from diffbir_jax.diffusion.samplers import ddim, ddpm
from diffbir_jax.diffusion.schedule import SCALED_LINEAR, ddim_rows, spaced


def gaussian_denoiser(mean, var):
    """E[z0 | z_t] for data of N(mean, var)."""

    def denoise(z_t, t):
        signal, noise = SCALED_LINEAR.scales(t)
        return mean + signal * var / (signal**2 * var + noise**2) * (z_t - signal * mean)

    return denoise


def normal(seed, shape=(1, 64, 64, 4)):
    return jax.random.normal(jax.random.key(seed), shape)


def test_ddpm_draws_the_data_its_denoiser_knows():
    z, _ = ddpm(gaussian_denoiser(mean=0.3, var=0.25), normal(0), spaced(1000), streams(jax.random.split(jax.random.key(1), 1)))
    assert z.mean() == pytest.approx(0.3, abs=0.01) and z.std() == pytest.approx(0.5, abs=0.01)


def test_ddim_with_noise_draws_them_too():
    noise = streams(jax.random.split(jax.random.key(1), 1))
    z, _ = ddim(gaussian_denoiser(mean=0.3, var=0.25), normal(0), ddim_rows(1000, eta=0.7), noise)
    assert z.mean() == pytest.approx(0.3, abs=0.015) and z.std() == pytest.approx(0.5, abs=0.015)


def test_ddim_converges_at_first_order_to_the_exact_flow():
    """Gaussian data: the probability flow keeps u in z_t = sqrt(abar) mean + sqrt(abar var + 1 - abar) u."""
    mean, var, u = 0.3, 0.25, normal(2, (1, 8, 8, 4))

    def on_the_path(abar):
        return np.sqrt(abar) * mean + np.sqrt(abar * var + 1 - abar) * u

    noise, errors = streams(jax.random.split(jax.random.key(0), 1)), []
    for n in (50, 100, 200):
        steps = ddim_rows(n)
        z, _ = ddim(gaussian_denoiser(mean, var), on_the_path(steps.abar[0]), steps, noise)
        errors.append(float(jnp.abs(z - on_the_path(SCALED_LINEAR.abar[0])).max()))
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert errors[-1] < 0.03 and ((0.85 < orders) & (orders < 1.15)).all(), (errors, orders)


@pytest.mark.parametrize("sampler, rows", [(ddpm, spaced), (ddim, ddim_rows)])
def test_guidance_pulls_toward_its_target_and_the_trace_tells(sampler, rows):
    target = jnp.full((1, 8, 8, 4), 2.0)
    z, trace = sampler(
        gaussian_denoiser(0.0, 1.0),
        normal(3, target.shape),
        rows(20),
        streams(jax.random.split(jax.random.key(0), 1)),
        latent_guidance(target, 128.0, repeats=1),  # 2 * 128 / (8 * 8 * 4) = 1: the whole way in one move
    )
    np.testing.assert_allclose(trace.z0, np.full((20, 1, 8, 8, 4), 2.0), atol=1e-5)
    np.testing.assert_array_equal(trace.z[-1], z)
    assert z.mean() > 1.0


@pytest.mark.parametrize("sampler, rows", [(ddpm, spaced), (ddim, ddim_rows)])
def test_an_images_result_does_not_depend_on_its_batch(sampler, rows):
    keys, start = jax.random.split(jax.random.key(0), 3), normal(4, (3, 8, 8, 4))

    def sample(i):
        guide = latent_guidance(jnp.ones_like(start)[i], 5.0)
        return sampler(gaussian_denoiser(0.3, 0.25), start[i], rows(10), streams(keys[i]), guide)[0]

    np.testing.assert_array_equal(sample(slice(None))[1:2], sample(slice(1, 2)))


def test_scale_window_seed_and_rows_do_not_recompile():
    @jax.jit
    def sample(key, scale, window, steps):
        keys = jax.random.split(key, 2)
        like = jnp.zeros((2, 8, 8, 4))
        guide = latent_guidance(like, scale, 2, window)
        return ddpm(gaussian_denoiser(0.3, 0.25), streams(keys)(1000, like), steps, streams(keys), guide)[0]

    steps = spaced(5)
    runs = [
        sample(jax.random.key(0), 0.0, (-1, 1001), steps),
        sample(jax.random.key(0), 50.0, (-1, 1001), steps),
        sample(jax.random.key(0), 50.0, (200, 700), steps),
        sample(jax.random.key(1), 50.0, (200, 700), steps),
        sample(jax.random.key(1), 50.0, (200, 700), steps._replace(std=0 * steps.std)),
    ]
    assert sample._cache_size() == 1
    assert all(jnp.any(a != b) for a, b in zip(runs, runs[1:], strict=False))


@pytest.mark.parametrize("sampler, rows", [(ddpm, spaced), (ddim, ddim_rows)])
def test_the_whole_loop_is_one_scan(sampler, rows):
    noise = streams(jax.random.split(jax.random.key(0), 1))
    jaxpr = jax.make_jaxpr(lambda z: sampler(gaussian_denoiser(0.3, 0.25), z, rows(50), noise))(normal(0, (1, 8, 8, 4)))
    assert [(e.primitive.name, e.params.get("length")) for e in loops(jaxpr.jaxpr)] == [("scan", 50)]


def loops(jaxpr):
    """Every scan and while of a jaxpr, those inside of others too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("scan", "while"):
            yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from loops(inner)
