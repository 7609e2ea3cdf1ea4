"""Losses on the decoded estimate against closed forms, and who learns from which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffbir_jax.diffusion.schedule import SCALED_LINEAR
from diffbir_jax.training import adversarial
from diffbir_jax.training.adversarial import AdversarialStage2, Discriminator, part_of, spectral_norm
from tests.training.test_objectives import FROZEN, NETS, ONE, Shift, keys

IMAGES = jax.random.uniform(jax.random.key(0), (200, 16, 16, 3))
BATCH = {"hq": IMAGES, "lq": 0.5 * IMAGES}


class Plain(Shift):
    """An autoencoder that changes nothing."""

    def decode(self, latent):
        return latent


NETS = NETS | {"autoencoder": Plain(), "discriminator": Discriminator((4, 8))}
CRITIC = NETS["discriminator"].init(jax.random.key(1), IMAGES, IMAGES)["params"]
PARAMS = {"control": ONE, "discriminator": CRITIC}


def objective(parameterisation="v", **weights):
    return AdversarialStage2(NETS, SCALED_LINEAR, parameterisation, pixel=1.0, **weights)


class Adding(Plain):
    """Its decoder adds a number."""

    @nn.compact
    def decode(self, latent):
        return latent + self.param("by", nn.initializers.zeros, ())


class Knowing(AdversarialStage2):
    """Predicts what leads to the clean image, whatever it is given."""

    def predict(self, weights, z_t, t, context, cond, kept=None):
        signal, noise = self.schedule.scales(t[:, None, None, None])
        eps = (z_t - signal * IMAGES) / noise
        return eps if self.parameterisation == "eps" else signal * eps - noise * IMAGES


def gradients(of, seed=0, params=PARAMS):
    return jax.grad(lambda p: of(p, FROZEN, BATCH, keys(200, seed))[0])(params)


@pytest.mark.parametrize("parameterisation", ["eps", "v"])
def test_a_network_that_knows_the_image_has_no_loss_but_the_discriminators(parameterisation):
    _, metrics = Knowing(NETS, SCALED_LINEAR, parameterisation, pixel=1.0, adversarial=1.0)(PARAMS, FROZEN, BATCH, keys(200))
    assert 0 < metrics["diffusion"].count < 200 and metrics["diffusion"].count + metrics["pixel"].count == 200
    assert metrics["diffusion"].total == pytest.approx(0, abs=1e-4) and metrics["pixel"].total == pytest.approx(0, abs=1e-4)
    assert metrics["discriminator"].total / metrics["discriminator"].count == pytest.approx(2, abs=1e-3)  # it cannot tell


def test_each_learns_from_its_own_losses():
    """The networks not from the discriminator's hinge, the discriminator from that alone; without a weight nobody judges."""
    silent, weak, strong = (gradients(objective(adversarial=weight)) for weight in (0.0, 0.1, 5.0))
    largest = lambda tree: max(abs(x).max() for x in jax.tree.leaves(tree))  # noqa: E731
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), weak["discriminator"], strong["discriminator"])
    assert largest(weak["discriminator"]) > 0 == largest(silent["discriminator"])
    moved = [float(of["control"]["by"] - silent["control"]["by"]) / weight for of, weight in ((weak, 0.1), (strong, 5.0))]
    assert moved[0] == pytest.approx(moved[1], rel=1e-2) != 0


def test_a_decoder_learns_the_clean_images_from_estimates_and_from_their_own_latents():
    """Its L1 is that of all images, whatever it is given; the others' losses are taken where they were."""
    nets, params = NETS | {"autoencoder": Adding()}, {"control": ONE, "autoencoder": {"by": jnp.full((), 0.25)}}
    of = Knowing(nets, SCALED_LINEAR, "v", pixel=1.0)
    (_, metrics), gradient = jax.value_and_grad(of, has_aux=True)(params, FROZEN, BATCH, keys(200))
    assert metrics["pixel"].count == 200 and metrics["pixel"].total == pytest.approx(50, rel=1e-3)
    assert gradient["autoencoder"]["by"] == pytest.approx(1, abs=1e-3)
    still = of({"control": ONE}, FROZEN | {"autoencoder": params["autoencoder"]}, BATCH, keys(200))[1]
    assert still["pixel"].total == pytest.approx(0, abs=1e-2) and still["diffusion"].count == metrics["diffusion"].count < 200
    judging = Knowing(nets, SCALED_LINEAR, "v", pixel=1.0, adversarial=1.0)
    _, judged = judging({**params, "discriminator": CRITIC}, FROZEN, BATCH, keys(200))
    assert judged["discriminator"].count + judged["diffusion"].count == 200  # the clean images' own latents are not judged


def test_estimates_begin_as_a_restoration_does_and_half_of_them_go_on():
    """The noise of z_t after a step of DDIM is that of the one before, and the clean image what was estimated there."""
    seen = []

    class Watching(Knowing):
        def predict(self, weights, z_t, t, context, cond, kept=None):
            seen.append((np.asarray(t), z_t))
            return super().predict(weights, z_t, t, context, cond, kept)

    of = Watching(NETS, SCALED_LINEAR, "v", pixel=1.0, strength=0.2)
    of(PARAMS, FROZEN, {"hq": IMAGES, "lq": jnp.full_like(IMAGES, 99.0)}, keys(len(IMAGES)))  # stage 1 adds 1
    (first, z_first), (then, z_then) = seen
    signal, noise = (x[:, None, None, None] for x in SCALED_LINEAR.scales(jnp.asarray(first)))
    begins = np.asarray(jnp.mean(z_first, (1, 2, 3)) > 50 * signal[:, 0, 0, 0])
    assert 100 <= first[begins].min() and first[begins].max() < 200 and (first[~begins] == then[~begins]).all()
    assert begins.mean() == pytest.approx(0.75, abs=0.07)
    on = begins & (then != first)
    assert on.mean() == pytest.approx(0.75 / 2, abs=0.07) and (then[on] < first[on]).all() and then[on].min() < 30
    eps = (z_first - signal * IMAGES) / noise
    signal, noise = (x[:, None, None, None] for x in SCALED_LINEAR.scales(jnp.asarray(then)))
    np.testing.assert_allclose(z_then[on], (signal * IMAGES + noise * eps)[on], atol=2e-2)
    np.testing.assert_array_equal(z_then[~on], z_first[~on])


def test_the_spectral_norm_is_the_largest_singular_value():
    matrix = jax.random.normal(jax.random.key(0), (40, 12)) * jnp.linspace(0.2, 3, 12)[None]
    assert spectral_norm(matrix) == pytest.approx(float(np.linalg.norm(matrix, 2)), rel=0.02)
    gradient = jax.grad(spectral_norm)(matrix)
    u, _, vt = np.linalg.svd(matrix)
    assert np.sum(gradient * np.outer(u[:, 0], vt[0])) == pytest.approx(1, abs=0.05)


def test_a_discriminator_does_not_stretch():
    """Every layer but the last, which may grow, is 1-Lipschitz up to the number of places that see a value."""
    more = IMAGES.at[0, 8, 8].add(0.01)
    change = NETS["discriminator"].apply({"params": CRITIC}, more, IMAGES) - NETS["discriminator"].apply(
        {"params": CRITIC}, IMAGES, IMAGES
    )
    assert 0 < jnp.linalg.norm(change) < 0.01 * 2 * 2 * 9 * 4 * 9


def test_parts_are_cut_alike_and_within(monkeypatch):
    monkeypatch.setattr(adversarial, "PERCEPTUAL_SIDE", 6)
    places = jnp.stack(jnp.meshgrid(*[jnp.arange(16.0)] * 2, indexing="ij"), -1)
    image = jnp.concatenate([places, jnp.zeros((16, 16, 1))], -1)[None].repeat(50, 0)
    parts = np.asarray(part_of(image, keys(50)))
    assert parts.shape == (50, 6, 6, 3)
    corners = parts[:, 0, 0, :2]
    assert corners.min() == 0 and corners.max() == 10 and len(np.unique(corners, axis=0)) > 30
    np.testing.assert_array_equal(parts - parts[:, :1, :1], np.broadcast_to(parts[:1] - parts[:1, :1, :1], parts.shape))
    assert part_of(image[:, :4], keys(50)).shape == (50, 4, 6, 3)
