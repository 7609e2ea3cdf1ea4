import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.diffusion.guidance import cfg, free, latent_guidance, region_weights, rgb_guidance


@pytest.fixture
def latents():
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.standard_normal((2, 4, 5, 3)), jnp.float32) for _ in range(2))


CHW = 4 * 5 * 3


def test_one_move_is_the_gradient_of_the_mean_square(latents):
    z0, target = latents
    np.testing.assert_allclose(latent_guidance(target, 7.0, 1)(z0, jnp.int32(10)), -2 * 7.0 * (z0 - target) / CHW, atol=1e-6)


def test_repeats_approach_the_target_geometrically(latents):
    z0, target = latents
    shift = latent_guidance(target, 7.0, 5)(z0, jnp.int32(10))
    np.testing.assert_allclose(shift, ((1 - 2 * 7.0 / CHW) ** 5 - 1) * (z0 - target), atol=1e-6)


def test_any_large_scale_moves_onto_the_target(latents):
    z0, target = latents
    for scale in (CHW / 2, CHW, 1e30):
        np.testing.assert_allclose(z0 + latent_guidance(target, scale, 1)(z0, jnp.int32(10)), target, atol=1e-6)


def test_pixels_are_compared_on_minus_one_to_one_through_the_decoder(latents):
    """For decode = M z, D = mean (2 M z - 2 target)^2 has the gradient 8 M^T (M z - target) / HWC."""
    z0, target = latents
    mix = jnp.asarray(np.random.default_rng(1).standard_normal((3, 3)), jnp.float32)
    shift = rgb_guidance(lambda z: z @ mix, target, 2.0, 1)(z0, jnp.int32(10))
    np.testing.assert_allclose(shift, -2.0 * 8 * (z0 @ mix - target) @ mix.T / CHW, atol=1e-5)


def test_guidance_acts_inside_its_window_only(latents):
    z0, target = latents
    guide = latent_guidance(target, 7.0, 1, window=(200, 700))
    assert [bool(jnp.any(guide(z0, jnp.int32(t)) != 0)) for t in (199, 200, 698, 699)] == [False, True, True, False]
    assert not jnp.any(free(z0, jnp.int32(500)))


def test_an_images_guidance_does_not_depend_on_its_batch(latents):
    z0, target = latents
    whole = latent_guidance(target, 7.0)(z0, jnp.int32(10))
    np.testing.assert_array_equal(whole[:1], latent_guidance(target[:1], 7.0)(z0[:1], jnp.int32(10)))


@pytest.mark.parametrize("w", [0.0, 1.0, 4.0])
def test_cfg_extrapolates_from_one_call_on_twice_the_batch(latents, w):
    calls = []

    def predict(z_t, t, conditions):
        calls.append(z_t.shape)
        return z_t * conditions["scale"][:, None, None, None] + t[:, None, None, None]

    z_t, t = latents[0], jnp.array([3, 5])
    guided = cfg(predict, {"scale": jnp.array([1.0, 2.0])}, {"scale": jnp.array([-1.0, 3.0])}, w)(z_t, t)
    scale = jnp.array([-1 + w * 2.0, 3 - w])[:, None, None, None]
    np.testing.assert_allclose(guided, z_t * scale + t[:, None, None, None], atol=1e-5)
    assert calls == [(4, 4, 5, 3)]


@pytest.mark.parametrize("t, share", [(1000, 0.0), (0, 1.0), (1000 * (1 - 0.5**0.2), 0.5)])
def test_rescaled_cfg_grows_from_1_to_1_plus_w(t, share):
    z = jnp.ones((1, 1, 1, 1))
    guided = cfg(lambda z, t, c: c, z, 0 * z, 4.0, rescaled=True)(z, jnp.array([round(t)]))
    assert float(guided.squeeze()) == pytest.approx(1 + 4 * share, abs=0.02)


def test_the_gradient_goes_through_jit_with_traced_scale_and_window(latents):
    z0, target = latents
    run = jax.jit(lambda scale, window: latent_guidance(target, scale, 1, window)(z0, jnp.int32(10)))
    np.testing.assert_allclose(run(3.0, (-1, 1001)), -6.0 * (z0 - target) / CHW, atol=1e-6)
    assert not jnp.any(run(3.0, (500, 1001))) and run._cache_size() == 1


def test_region_weights_of_a_ramp_have_a_closed_form():
    """Luma rising by r a pixel has Sobel's magnitude 8 r, 4 r at the repeated border: 1 - tanh of a 2 x 2 patch's sum."""
    r = 0.01
    ramp = jnp.broadcast_to(r * jnp.arange(8.0)[None, None, :, None], (1, 6, 8, 3))
    weights = region_weights(ramp)[0, :, :, 0]
    np.testing.assert_allclose(weights[:, 2:6], 1 - np.tanh(0.9999 * 32 * r), atol=1e-5)
    np.testing.assert_allclose(weights[:, [0, 1, 6, 7]], 1 - np.tanh(0.9999 * 24 * r), atol=1e-5)


@pytest.mark.parametrize("height, width", [(7, 9), (6, 9), (7, 8)])
def test_region_weights_of_a_flat_image_are_1(height, width):
    np.testing.assert_array_equal(region_weights(jnp.full((2, height, width, 3), 0.4)), jnp.ones((2, height, width, 1)))


def test_weights_scale_the_gradient_where_they_are(latents):
    """A latent pixel has the mean weight of the 4 x 4 pixels that it stands for; in pixels every weight counts alone."""
    z0, target = latents
    weights = jnp.asarray(np.random.default_rng(2).uniform(size=(2, 16, 20, 1)), jnp.float32)
    means = np.asarray(weights).reshape(2, 4, 4, 5, 4).mean((2, 4))[..., None]
    shift = latent_guidance(target, 7.0, 1, weights=weights)(z0, jnp.int32(10))
    np.testing.assert_allclose(shift, -2 * 7.0 * means * (z0 - target) / CHW, atol=1e-6)
    pixels = rgb_guidance(lambda z: z, target, 2.0, 1, weights=weights[:, :4, :5])(z0, jnp.int32(10))
    np.testing.assert_allclose(pixels, -2.0 * 8 * weights[:, :4, :5] * (z0 - target) / CHW, atol=1e-6)
