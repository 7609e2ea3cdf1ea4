"""The training step: devices, the moving average, and objectives against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import Mesh

from diffbir_jax.diffusion.schedule import SCALED_LINEAR
from diffbir_jax.training import steps
from diffbir_jax.training.state import init_state


def quadratic(params, frozen, batch, key):
    loss = jnp.mean((batch["hq"].mean((1, 2, 3)) - params["w"]) ** 2)
    return loss, {}


@pytest.mark.parametrize("devices", [1, 2])
def test_a_step_is_the_gradient_of_the_whole_batch_on_any_number_of_devices(devices):
    batch = {"hq": jnp.arange(4.0)[:, None, None, None] * jnp.ones((4, 2, 2, 3))}
    optimizer = optax.sgd(0.5)
    state = init_state({"w": jnp.zeros(())}, optimizer)
    step = steps.make_step(quadratic, optimizer, 0.9, Mesh(jax.devices()[:devices], ("data",)))
    state, metrics = step(state, {}, batch, jax.random.key(0))
    assert state.params["w"] == pytest.approx(1.5)  # one step of sgd with rate 1/2 on a parabola lands on the mean
    assert metrics["loss"] == pytest.approx(3.5) and metrics["gradient_norm"] == pytest.approx(3.0)
    assert state.ema["w"] == pytest.approx(0.9 * 1.5) and state.step == 1


def test_the_compiled_step_averages_with_one_all_reduce():
    batch = {"hq": jnp.ones((4, 2, 2, 3))}
    optimizer = optax.sgd(0.5)
    step = steps.make_step(quadratic, optimizer, 0.9, Mesh(jax.devices(), ("data",)))
    text = step.lower(init_state({"w": jnp.zeros(())}, optimizer), {}, batch, jax.random.key(0)).compile().as_text()
    assert sum(" all-reduce(" in line for line in text.splitlines()) == 1


@pytest.mark.parametrize("parameterisation", ["eps", "v"])
def test_a_network_that_knows_the_image_has_no_diffusion_loss(parameterisation):
    z0 = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))

    def predict(z_t, t):
        signal, noise = SCALED_LINEAR.scales(t[:, None, None, None])
        eps = (z_t - signal * z0) / noise
        return eps if parameterisation == "eps" else signal * eps - noise * z0

    loss, _ = steps.diffusion_loss(SCALED_LINEAR, parameterisation, predict, z0, jax.random.key(1))
    assert loss == pytest.approx(0, abs=1e-6)
    silent, _ = steps.diffusion_loss(SCALED_LINEAR, parameterisation, lambda z, t: 0 * z, z0, jax.random.key(1))
    assert silent == pytest.approx(1, abs=0.3)


class Shift(nn.Module):
    """A network of one number: it adds that, as stage 1 and as control branch; as autoencoder it is the identity."""

    @nn.compact
    def __call__(self, x, *rest):
        x = x + self.param("by", nn.initializers.zeros, ())
        return (x,) if len(rest) == 3 else x

    def encode(self, image):
        return image


class Sum(nn.Module):
    """A UNet whose prediction is its number plus the control."""

    @nn.compact
    def __call__(self, z_t, t, context, control):
        return self.param("by", nn.initializers.zeros, ()) + control[0]


@pytest.mark.parametrize("dropped", [0.0, 1 - 1e-9])
def test_the_prior_learns_along_only_where_control_is_dropped(dropped):
    """Without dropping, the UNet is frozen; with everything dropped, the control branch gets no gradient."""
    objective = steps.stage2_objective(Shift(), Sum(), Shift(), Shift(), SCALED_LINEAR, "v", noises=3, dropped=dropped)
    number = {"by": jnp.ones(())}
    frozen = {"stage1": number, "autoencoder": {}, "unet": number}
    params = {"control": number, "unet": number} if dropped else number
    image = jax.random.uniform(jax.random.key(0), (2, 4, 4, 3))
    gradient = jax.grad(lambda p: objective(p, frozen, {"hq": image, "lq": image}, jax.random.key(1))[0])(params)
    if not dropped:
        assert gradient["by"] != 0
    else:
        assert gradient["control"]["by"] == 0 and gradient["unet"]["by"] != 0


def test_the_relative_loss_weighs_mild_and_strong_damage_alike():
    class Brighten(nn.Module):
        @nn.compact
        def __call__(self, lq):
            return lq + self.param("by", nn.initializers.zeros, ())

    lq = jnp.array([0.1, 0.4])[:, None, None, None] * jnp.ones((2, 4, 4, 3))
    batch, params = {"lq": lq, "hq": jnp.zeros_like(lq)}, {"by": jnp.array(-0.05)}  # errors 0.05 of 0.1, 0.35 of 0.4
    plain, metrics = steps.stage1_objective(Brighten())(params, {}, batch, None)
    assert plain == pytest.approx((0.05**2 + 0.35**2) / 2)
    assert metrics["gain_db"] == pytest.approx(10 * np.log10(0.1 * 0.4 / (0.05 * 0.35)), rel=1e-3)
    relative, _ = steps.stage1_objective(Brighten(), relative=True)(params, {}, batch, None)
    assert relative == pytest.approx((0.05**2 / (0.1**2 + 1e-3) + 0.35**2 / (0.4**2 + 1e-3)) / 2)


def test_psnr_of_a_known_error():
    image = jnp.full((2, 4, 4, 3), 0.5)
    assert steps.psnr(image + 0.1, image) == pytest.approx(20, abs=1e-3)
    assert np.isfinite(steps.psnr(image, image))
