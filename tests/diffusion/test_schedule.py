import jax.numpy as jnp
import numpy as np
import pytest
from golden import vectors

from diffbir_jax.diffusion.noise import diffuse
from diffbir_jax.diffusion.samplers import SAMPLERS
from diffbir_jax.diffusion.schedule import SCALED_LINEAR, ZERO_SNR, below, ddim_rows, denoiser, spaced
from diffbir_jax.diffusion.sigmas import k_levels, nearest_time
from diffbir_jax.errors import InputError


@pytest.fixture(scope="module")
def golden():
    return vectors("schedule")


def test_betas_are_the_originals(golden):
    np.testing.assert_allclose(SCALED_LINEAR.betas, golden["betas"], rtol=1e-12)
    np.testing.assert_allclose(ZERO_SNR.betas, golden["betas_zero_snr"], rtol=1e-9)
    assert ZERO_SNR.abar[-1] == 0


@pytest.mark.parametrize("n", [1, 2, 4, 5, 8, 10, 20, 25, 50, 100, 1000])
def test_steps_kept_are_the_originals(golden, n):
    np.testing.assert_array_equal(spaced(n).t[::-1], golden[f"timesteps_{n}"])


@pytest.mark.parametrize("schedule", [SCALED_LINEAR, ZERO_SNR])
@pytest.mark.parametrize("rows", [spaced, ddim_rows])
def test_a_row_carries_the_diffused_image_to_the_next_level(schedule, rows):
    """With the true z0, z_t of variance 1 - abar around it becomes z_prev of variance 1 - abar_prev around it."""
    s = rows(50, schedule)
    abar = s.abar.astype(np.float64)
    prev = np.append(abar[1:], 1 if rows is spaced else schedule.abar[0])
    np.testing.assert_allclose(s.coef_z0 + s.coef_zt * np.sqrt(abar), np.sqrt(prev), atol=1e-6)
    np.testing.assert_allclose(s.coef_zt**2 * (1 - abar) + s.std**2, 1 - prev, atol=1e-6)


def test_ddim_with_eta_1_adds_the_noise_of_ddpm():
    """Song et al. 2021, section 4.1: on the same steps, eta = 1 is DDPM."""
    rows, like = ddim_rows(1000, eta=1.0), spaced(1000)
    for column in ("coef_z0", "coef_zt", "std"):
        np.testing.assert_allclose(getattr(rows, column), getattr(like, column)[:999], rtol=1e-5)


def test_rows_end_as_documented():
    assert spaced(50).std[-1] == 0 and spaced(50).t[0] == 999
    assert ddim_rows(5).t.tolist() == [801, 601, 401, 201, 1]
    assert ddim_rows(3).t.tolist() == [999, 667, 334, 1]  # the original would step out of its table
    assert below(spaced(5), 600).t.tolist() == [500, 250, 0]


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("n", [0, -3, 1001])
def test_steps_out_of_range_are_refused(name, n):
    with pytest.raises(InputError, match=f"steps is {n}; give 1 to 1000, for example 50"):
        SAMPLERS[name].rows(n, SCALED_LINEAR, 0.0)


@pytest.mark.parametrize("schedule", [SCALED_LINEAR, ZERO_SNR])
@pytest.mark.parametrize("name", SAMPLERS)
def test_rows_of_any_number_of_steps_are_finite_and_fall(name, schedule):
    for n in (1, 2, 7, 50, 1000):
        rows = SAMPLERS[name].rows(n, schedule, 0.0)
        assert all(np.isfinite(column).all() for column in rows)
        assert (np.diff(rows.t) <= 0).all() and len(rows.t) >= min(n, 999) and rows.t.dtype == np.int32


def test_between_levels_the_network_sees_the_nearest_one():
    levels = k_levels(5, ZERO_SNR)
    assert nearest_time(levels, np.array([1e5, 6000, levels.sigma[2] * 1.01, levels.sigma[4], 0.0])).tolist() == [
        999,
        999,
        599,
        199,
        0,
    ]


@pytest.mark.parametrize("t", [0, 500, 999])
def test_both_parameterisations_recover_the_clean_latent(t):
    rng = np.random.default_rng(0)
    z0, eps = (jnp.asarray(rng.standard_normal((2, 4, 4, 3)), jnp.float32) for _ in range(2))
    z_t, (signal, noise) = diffuse(SCALED_LINEAR, z0, t, eps), SCALED_LINEAR.scales(jnp.int32(t))
    for parameterisation, prediction in {"eps": eps, "v": signal * eps - noise * z0}.items():
        denoise = denoiser(lambda z, t, p=prediction: p, SCALED_LINEAR, parameterisation)
        np.testing.assert_allclose(denoise(z_t, jnp.int32(t)), z0, atol=2e-5)


def test_diffuse_takes_one_step_an_image():
    z0, eps = jnp.ones((2, 4, 4, 3)), jnp.full((2, 4, 4, 3), 2.0)
    both = diffuse(SCALED_LINEAR, z0, jnp.array([0, 999]), eps)
    for i, t in enumerate((0, 999)):
        np.testing.assert_array_equal(both[i], diffuse(SCALED_LINEAR, z0, t, eps)[i])


def test_v_is_finite_and_eps_refused_where_no_signal_is_left():
    z_t = jnp.ones((1, 2, 2, 1))
    np.testing.assert_allclose(denoiser(lambda z, t: 3 * z, ZERO_SNR, "v")(z_t, jnp.int32(999)), -3 * z_t)
    with pytest.raises(InputError, match="predicts v"):
        denoiser(lambda z, t: z, ZERO_SNR, "eps")
