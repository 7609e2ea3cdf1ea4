import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.diffusion.noise import recorded, streams
from diffbir_jax.diffusion.schedule import spaced


def test_an_images_noise_depends_on_its_key_and_step_alone():
    keys, like = jax.random.split(jax.random.key(0), 3), jnp.zeros((3, 8, 8, 4))
    together = streams(keys)(7, like)
    np.testing.assert_array_equal(together[1:2], streams(keys[1:2])(7, like[1:2]))
    assert (together[0] != together[1]).all() and (together != streams(keys)(8, like)).all()


def test_streams_are_standard_normal():
    draws = streams(jax.random.split(jax.random.key(1), 4))(0, jnp.zeros((4, 64, 64, 4)))
    assert abs(draws.mean()) < 0.02 and abs(draws.std() - 1) < 0.02


def test_recorded_draws_are_those_of_their_step():
    steps, draws = spaced(5), np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1, 1)
    noise = recorded(steps, draws)
    assert [float(noise(t, jnp.zeros((1, 1, 1, 1))).squeeze()) for t in steps.t] == [0, 1, 2, 3, 4]


def test_a_steps_draws_are_its_own():
    keys, like = jax.random.split(jax.random.key(2), 1), jnp.zeros((1, 64, 64, 4))
    drawn = np.stack([streams(keys)(t, like, draw).ravel() for t in (0, 1001) for draw in (0, 1)])
    np.testing.assert_allclose(np.corrcoef(drawn), np.eye(4), atol=0.03)


def test_recorded_draws_of_one_step_follow_one_another():
    steps, draws = spaced(3), np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1, 1)
    noise = recorded(steps, draws)
    like = jnp.zeros((1, 1, 1, 1))
    assert [float(noise(t, like, draw).squeeze()) for t in steps.t for draw in (0, 1)] == [0, 1, 2, 3, 4, 5]
