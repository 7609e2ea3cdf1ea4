import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.diffusion.guidance import latent_guidance, region_weights
from diffbir_jax.diffusion.noise import diffuse, streams
from diffbir_jax.diffusion.samplers import SAMPLERS, ddim, ddpm
from diffbir_jax.diffusion.schedule import SCALED_LINEAR, ZERO_SNR, below, ddim_rows, spaced


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


def velocity(schedule, mean, var):
    """The v that a network of data N(mean, var) predicts."""

    def predict(z_t, t):
        abar = jnp.interp(t[:, None, None, None], np.arange(1000.0), jnp.asarray(schedule.abar, jnp.float32))
        signal, noise = jnp.sqrt(abar), jnp.sqrt(1 - abar)
        z0 = mean + signal * var / (signal**2 * var + noise**2) * (z_t - signal * mean)
        return signal * (z_t - signal * z0) / noise - noise * z0

    return predict


def sample(name, z, rows, keys, schedule=ZERO_SNR, predict=None, **guide):
    """A sampler's result and trace, with a v network of Gaussian data."""
    sampler = SAMPLERS[name]
    denoise = sampler.denoiser(predict or velocity(schedule, 0.3, 0.25), schedule, "v")
    guides = [latent_guidance(**guide)] if guide else []
    return sampler.sample(denoise, sampler.start(z, rows), rows, streams(keys), *guides)


KEYS, SHAPE = jax.random.split(jax.random.key(0), 3), (3, 8, 8, 4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_from_pure_noise_the_data_comes_out(name):
    """From zero terminal signal, sigma = 10^4, in 20 steps; the spread of the rougher samplers is short of the data's 0.5."""
    z, _ = jax.jit(lambda z: sample(name, z, SAMPLERS[name].rows(20, ZERO_SNR, 0.0), KEYS[:1]))(normal(0))
    assert z.mean() == pytest.approx(0.3, abs=0.02) and z.std() == pytest.approx(0.5, abs=0.11)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_larger_scale_comes_closer_to_the_target_and_the_trace_tells(name):
    target, rows = jnp.full((1, *SHAPE[1:]), 2.0), SAMPLERS[name].rows(8, ZERO_SNR, 0.0)
    run = jax.jit(lambda z, scale: sample(name, z, rows, KEYS[:1], target=target, scale=scale, repeats=1))
    results = [run(normal(1, target.shape), scale) for scale in (0.0, 16.0, 48.0, target.size / 2)]
    distances = [float(jnp.abs(z - target).mean()) for z, _ in results]
    assert distances == sorted(distances, reverse=True) and distances[-1] < 0.6 * distances[0]
    z, trace = results[-1]  # there one move of 2 scale / (h w c) = 1 is the whole way
    np.testing.assert_allclose(trace.z0, jnp.broadcast_to(target, trace.z0.shape), atol=1e-4)
    if name not in ("ddpm", "ddim", "dpm++_2m"):  # DDPM moves by half of a shift; the others end at step 0's noise
        np.testing.assert_allclose(z, target, atol=1e-4)
        np.testing.assert_array_equal(z, trace.z[-1])


@pytest.mark.parametrize("name", ["ddpm", "ddim", "heun", "unipc"])
def test_a_guide_of_scale_0_changes_nothing_but_rounding(name):
    z, rows = normal(1, (1, *SHAPE[1:])), SAMPLERS[name].rows(8, ZERO_SNR, 0.0)
    free, _ = jax.jit(lambda z: sample(name, z, rows, KEYS[:1]))(z)
    guided, _ = jax.jit(lambda z, scale: sample(name, z, rows, KEYS[:1], target=z, scale=scale))(z, 0.0)
    np.testing.assert_allclose(guided, free, atol=2e-6)  # two programs; the shift itself is 0 (test_guidance)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm_2_a", "dpm++_sde", "dpm++_3m_sde", "unipc"])
def test_an_images_result_does_not_depend_on_its_batch(name):
    start, target, rows = normal(4, SHAPE), normal(5, SHAPE), SAMPLERS[name].rows(6, ZERO_SNR, 0.0)
    run = jax.jit(lambda z, keys, target: sample(name, z, rows, keys, target=target, scale=5.0)[0])
    np.testing.assert_array_equal(run(start, KEYS, target)[1:2], run(start[1:2], KEYS[1:2], target[1:2]))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_network_that_knows_the_image_restores_it_from_the_middle(name):
    """Also the multistep samplers, whose memory is empty wherever they begin; every evaluation is counted."""
    image, sampler, calls = normal(6, (1, 8, 8, 4)), SAMPLERS[name], []
    rows, predict = below(sampler.rows(8, ZERO_SNR, 0.0), 600), velocity(ZERO_SNR, image, 0.0)

    def counted(z_t, t):
        jax.debug.callback(lambda: calls.append(1))
        return predict(z_t, t)

    z = diffuse(ZERO_SNR, image, int(rows.t[0]), normal(7, image.shape))
    z0, _ = jax.jit(lambda z: sample(name, z, rows, KEYS[:1], predict=counted))(z)
    np.testing.assert_allclose(z0, image, atol=0.15 if name in ("ddim", "dpm++_2m") else 1e-4)
    jax.effects_barrier()
    assert len(calls) == sampler.evaluations(len(rows.t)) and 2 < len(rows.t) < 8


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_step_takes_the_draws_that_the_table_says(name):
    sampler, draws = SAMPLERS[name], set()

    def noise(t, like, draw=0):
        draws.add(draw)
        return jnp.zeros_like(like)

    rows, denoise = sampler.rows(4, ZERO_SNR, 0.0), sampler.denoiser(lambda z, t: z, ZERO_SNR, "v")
    jax.eval_shape(lambda z: sampler.sample(denoise, z, rows, noise), normal(0, (1, 2, 2, 1)))
    assert draws == set(range(sampler.draws)) and len(set(rows.t.tolist())) == 4


@pytest.mark.parametrize("name", ["dpm++_3m_sde", "heun"])
def test_weights_hold_flat_areas_and_free_texture(name):
    stripes = jnp.zeros((1, 16, 16, 3)).at[:, :, 8::2].set(1.0)
    target, rows = jnp.full((1, 8, 8, 4), 2.0), SAMPLERS[name].rows(8, ZERO_SNR, 0.0)
    guide = {"target": target, "scale": 96.0, "weights": region_weights(stripes)}
    z, _ = jax.jit(lambda z: sample(name, z, rows, KEYS[:1], **guide))(normal(1, target.shape))
    flat, texture = jnp.abs(z - target)[:, :, :3].mean(), jnp.abs(z - target)[:, :, 5:].mean()
    assert flat < 0.3 * texture


def test_scale_window_seed_and_rows_do_not_recompile():
    @jax.jit
    def run(key, scale, window, steps):
        keys = jax.random.split(key, 2)
        like = jnp.zeros((2, 8, 8, 4))
        guide = latent_guidance(like, scale, 2, window)
        return ddpm(gaussian_denoiser(0.3, 0.25), streams(keys)(1000, like), steps, streams(keys), guide)[0]

    steps = spaced(5)
    runs = [
        run(jax.random.key(0), 0.0, (-1, 1001), steps),
        run(jax.random.key(0), 50.0, (-1, 1001), steps),
        run(jax.random.key(0), 50.0, (200, 700), steps),
        run(jax.random.key(1), 50.0, (200, 700), steps),
        run(jax.random.key(1), 50.0, (200, 700), steps._replace(std=0 * steps.std)),
    ]
    assert run._cache_size() == 1
    assert all(jnp.any(a != b) for a, b in zip(runs, runs[1:], strict=False))


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_whole_loop_is_one_scan(name):
    rows = SAMPLERS[name].rows(50, ZERO_SNR, 0.0)
    jaxpr = jax.make_jaxpr(lambda z: sample(name, z, rows, KEYS[:1], predict=lambda z, t: z))(normal(0, (1, 8, 8, 4)))
    assert [(e.primitive.name, e.params.get("length")) for e in loops(jaxpr.jaxpr)] == [("scan", 50)]


def loops(jaxpr):
    """Every scan and while of a jaxpr, those inside of others too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("scan", "while"):
            yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from loops(inner)
