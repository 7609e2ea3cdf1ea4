"""Objectives against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffbir_jax.diffusion.schedule import SCALED_LINEAR, ZERO_SNR
from diffbir_jax.models.control import ControlNet
from diffbir_jax.training import objectives
from diffbir_jax.training.objectives import Stage2


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize("parameterisation", ["eps", "v"])
def test_a_network_that_knows_the_image_has_no_diffusion_loss(parameterisation):
    z0 = jax.random.normal(jax.random.key(0), (8, 4, 4, 2))

    def predict(z_t, t):
        signal, noise = SCALED_LINEAR.scales(t[:, None, None, None])
        eps = (z_t - signal * z0) / noise
        return eps if parameterisation == "eps" else signal * eps - noise * z0

    loss, _ = objectives.diffusion_loss(SCALED_LINEAR, parameterisation, predict, z0, keys(8))
    assert loss == pytest.approx(0, abs=1e-6)
    silent, buckets = objectives.diffusion_loss(SCALED_LINEAR, parameterisation, lambda z, t: 0 * z, z0, keys(8))
    assert silent == pytest.approx(1, abs=0.3)
    assert list(buckets) == ["loss_t000_249", "loss_t250_499", "loss_t500_749", "loss_t750_999"]
    totals, counts = (sum(float(mean[i]) for mean in buckets.values()) for i in (0, 1))
    assert counts == 8 and totals / counts == pytest.approx(float(silent), rel=1e-5)


def test_low_steps_come_from_the_first_quarter():
    drawn = {}

    def predict(z_t, t):
        drawn["t"] = np.asarray(t)
        return z_t

    z0 = jnp.zeros((400, 1, 1, 1))
    for share, expected in ((0.0, 0.25), (0.5, 0.625), (1.0, 1.0)):
        objectives.diffusion_loss(SCALED_LINEAR, "v", predict, z0, keys(400), share)
        assert (drawn["t"] < 250).mean() == pytest.approx(expected, abs=0.08)
        assert len(np.unique(drawn["t"])) > 100


def test_the_last_step_of_zero_terminal_snr_is_noise_alone_and_its_v_the_image():
    z0, eps = jnp.ones((1, 2, 2, 1)), jnp.full((1, 2, 2, 1), 3.0)
    z_t, target = objectives.noised(ZERO_SNR, "v", z0, jnp.array([999]), eps)
    np.testing.assert_allclose(z_t, eps, atol=1e-6)
    np.testing.assert_allclose(target, -z0, atol=1e-6)


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


ONE = {"by": jnp.ones(())}
FROZEN = {"stage1": ONE, "autoencoder": {}, "unet": ONE}
NETS = {"control": Shift(), "unet": Sum(), "autoencoder": Shift(), "stage1": Shift()}
IMAGE = jax.random.uniform(jax.random.key(0), (2, 4, 4, 3))
BATCH = {"hq": IMAGE, "lq": IMAGE}


@pytest.mark.parametrize("dropped", [0.0, 1 - 1e-9])
def test_the_prior_learns_along_only_where_control_is_dropped(dropped):
    """Without dropping, the UNet is frozen; with everything dropped, the control branch gets no gradient."""
    objective = Stage2(NETS, SCALED_LINEAR, "v", noises=3, control_dropped=dropped)
    params = {"control": ONE, "unet": ONE} if dropped else {"control": ONE}
    gradient = jax.grad(lambda p: objective(p, FROZEN, BATCH, keys(2))[0])(params)
    assert (gradient["control"]["by"] != 0) == (not dropped)
    assert not dropped or gradient["unet"]["by"] != 0


def test_the_condition_is_stage_1s_output_or_without_it_the_degraded_image():
    weights = {**FROZEN, "control": ONE}
    _, cond = Stage2(NETS, SCALED_LINEAR, "v").conditions(weights, BATCH)
    np.testing.assert_allclose(cond, IMAGE + 1)
    without = {name: net for name, net in NETS.items() if name != "stage1"}
    z0, cond = Stage2(without, SCALED_LINEAR, "v").conditions(weights, BATCH)
    np.testing.assert_allclose(cond, IMAGE)
    np.testing.assert_allclose(z0, IMAGE)


def test_a_plain_controlnet_sees_the_restored_image_not_its_latent():
    class Doubling(Shift):
        def encode(self, image):
            return 2 * image

    nets = NETS | {"control": ControlNet(), "autoencoder": Doubling()}
    z0, cond = Stage2(nets, SCALED_LINEAR, "v").conditions(FROZEN, BATCH)
    np.testing.assert_allclose(cond, IMAGE + 1)
    np.testing.assert_allclose(z0, 2 * IMAGE)


def test_noise_augmentation_diffuses_the_condition_below_its_step():
    many = jnp.ones((64, 8, 8, 3))
    cond = Stage2(NETS, SCALED_LINEAR, "v", noise_augmentation=200).augment(many, keys(64))
    signal, noise = SCALED_LINEAR.scales(jnp.array([0, 199]))
    deviation = np.asarray(cond - cond.mean((1, 2, 3), keepdims=True)).std((1, 2, 3))
    assert 0 < deviation.min() and deviation.max() < 1.2 * noise[1] and deviation.std() > 0.05
    assert signal[1] - 0.15 < cond.mean() < 1


def test_captions_give_way_to_the_empty_prompt_for_their_share():
    empty, context = jnp.zeros((1, 2, 3)), jnp.ones((400, 2, 3))
    batch = {"hq": jnp.zeros((400, 1, 1, 3)), "context": context}
    stage2 = Stage2(NETS, SCALED_LINEAR, "v", captions_dropped=0.3)
    given = stage2.contexts({"empty": empty}, batch, keys(400))
    assert given[:, 0, 0].mean() == pytest.approx(0.7, abs=0.07) and set(np.unique(given)) == {0.0, 1.0}
    assert not stage2.contexts({"empty": empty}, {"hq": batch["hq"]}, keys(400)).any()
    assert stage2.contexts({}, batch, keys(400)) is None


def test_trained_layers_take_the_place_of_frozen_ones():
    frozen = {"control": {"a": 1, "b": 2}, "unet": {"c": 3}}
    assert objectives.merge(frozen, {"control": {"b": 5}}) == {"control": {"a": 1, "b": 5}, "unet": {"c": 3}}


def test_the_relative_loss_weighs_mild_and_strong_damage_alike():
    class Brighten(nn.Module):
        @nn.compact
        def __call__(self, lq):
            return lq + self.param("by", nn.initializers.zeros, ())

    lq = jnp.array([0.1, 0.4])[:, None, None, None] * jnp.ones((2, 4, 4, 3))
    batch, params = {"lq": lq, "hq": jnp.zeros_like(lq)}, {"by": jnp.array(-0.05)}  # errors 0.05 of 0.1, 0.35 of 0.4
    plain, metrics = objectives.stage1_objective(Brighten())(params, {}, batch, keys(2))
    assert plain == pytest.approx((0.05**2 + 0.35**2) / 2)
    gain = metrics["gain_db"].total / metrics["gain_db"].count
    assert gain == pytest.approx(10 * np.log10(0.1 * 0.4 / (0.05 * 0.35)), rel=1e-3)
    relative, _ = objectives.stage1_objective(Brighten(), relative=True)(params, {}, batch, keys(2))
    assert relative == pytest.approx((0.05**2 / (0.1**2 + 1e-3) + 0.35**2 / (0.4**2 + 1e-3)) / 2)


def test_psnr_of_a_known_error():
    image = jnp.full((2, 4, 4, 3), 0.5)
    np.testing.assert_allclose(objectives.psnr(image + 0.1, image), 20, atol=1e-3)
    assert np.isfinite(objectives.psnr(image, image)).all()
