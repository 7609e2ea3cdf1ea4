"""What is kept between evaluations: when it is made anew, in loops, branches and tiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.diffusion.guidance import within
from diffbir_jax.diffusion.reuse import clock, reusing
from diffbir_jax.diffusion.samplers import SAMPLERS
from diffbir_jax.diffusion.schedule import ZERO_SNR
from diffbir_jax.diffusion.tiling import tiled

Z = jnp.zeros((2, 1, 1, 1))


def full(z, t):
    """Keeps t."""
    kept = t[:, None, None, None].astype(jnp.float32)
    return kept, kept


def kept_alone(z, t, kept):
    return kept


def seen(predict, times):
    """The t that every evaluation in a loop took its features from."""
    return jax.lax.scan(lambda z, t: (z, predict(z, jnp.broadcast_to(t, (2,)))[1].squeeze()), Z, jnp.asarray(times))[1]


@pytest.mark.parametrize(
    ("every", "want"), [(1, [9, 8, 7, 6, 5, 4]), (2, [9, 9, 7, 7, 5, 5]), (3, [9, 9, 9, 6, 6, 6]), (9, [9] * 6)]
)
def test_features_are_computed_at_every_nth_evaluation(every, want):
    run = jax.jit(lambda every: seen(reusing(full, kept_alone, every, clock(), Z), range(9, 3, -1)))
    assert run(every).tolist() == want


def test_two_ways_of_one_loop_keep_their_own_and_none_grows_old():
    """Inside a window of cfg and outside: what was kept before the window is not taken after it."""

    @jax.jit
    def run():
        ticks = clock()
        ways = [lambda z, t, s=sign: tuple(s * x for x in full(z, t)) for sign in (-1, 1)]
        inside, outside = (reusing(way, kept_alone, 3, ticks, Z) for way in ways)
        return seen(within((2, 7), inside, outside), range(9, -1, -1))

    assert run().tolist() == [9, 9, 9, 6, -5, -5, -5, -2, 1, 1]


@pytest.mark.parametrize("name", ["ddim", "heun", "dpm_2", "unipc"])
def test_samplers_carry_it_and_count_evaluations(name):
    """The full evaluations of a sampler, the second of a step too, are every third of its evaluations."""
    sampler, count = SAMPLERS[name], []

    def counted(z, t):
        jax.debug.callback(lambda: count.append(1))
        return z, z

    def run(z):
        predict = reusing(counted, lambda z, t, kept: kept, 3, clock(), z)
        rows = sampler.rows(6, ZERO_SNR, 0.0)
        return sampler.sample(sampler.denoiser(predict, ZERO_SNR, "v"), z, rows, lambda t, like, draw=0: jnp.zeros_like(like))[0]

    jax.block_until_ready(jax.jit(run)(jnp.ones((1, 2, 2, 1))))
    jax.effects_barrier()
    assert len(count) == -(-sampler.evaluations(len(sampler.rows(6, ZERO_SNR, 0.0).t)) // 3)


def test_every_tile_is_given_what_it_kept():
    """A network that returns what it was given at its tiles before, blended, is the network that kept it."""
    z, t = jnp.asarray(np.random.default_rng(0).standard_normal((2, 24, 40, 3), np.float32)), jnp.array([3, 700])
    covered = (20, 31)
    keeping = tiled(lambda z, t, given: (z + given, {"kept": z * given}), 16, 8, 3, covered, keeps=True)
    taking = tiled(lambda z, t, given, kept: kept["kept"], 16, 8, 3, covered)
    predicted, kept = jax.jit(keeping)(z, t, z + 1)
    np.testing.assert_allclose(predicted[:, :20, :31], (2 * z + 1)[:, :20, :31], atol=1e-5)
    np.testing.assert_allclose(jax.jit(taking)(0 * z, t, z, kept)[:, :20, :31], (z * (z + 1))[:, :20, :31], atol=1e-5)
