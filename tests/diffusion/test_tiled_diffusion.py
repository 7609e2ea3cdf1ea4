import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.diffusion.guidance import cfg, rgb_guidance
from diffbir_jax.diffusion.tiling import tiled, tiled_decode

Z = np.random.default_rng(0).standard_normal((2, 24, 40, 3), np.float32)
COND, TEXT, T = Z[:, ::-1] + 1, np.arange(2 * 5 * 4, dtype=np.float32).reshape(2, 5, 4), np.array([3, 700], np.int32)


def pointwise(z, t, given):
    cond, text = given
    return z * cond + t[:, None, None, None] + text.mean((1, 2))[:, None, None, None]


def blur(z, t=None, given=None):
    return jax.lax.reduce_window(z, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME") / 9


@pytest.mark.parametrize(("tile", "overlap", "batch"), [(16, 8, 1), (16, 8, 4), (16, 5, 3), (32, 8, 2), (64, 32, 2)])
def test_a_pointwise_network_is_not_changed(tile, overlap, batch):
    run = jax.jit(tiled(pointwise, tile, overlap, batch))
    np.testing.assert_allclose(run(Z, T, (COND, TEXT)), pointwise(Z, T, (COND, TEXT)), atol=2e-4)


def test_the_network_is_given_tiles_of_one_shape_a_batch_at_a_time():
    seen = []
    jax.eval_shape(tiled(lambda z, t, g: seen.append((z.shape, t.shape, g.shape)) or z, 16, 8, 4), Z, T, TEXT)
    assert set(seen) == {((8, 16, 16, 3), (8,), (8, 5, 4))}


def test_classifier_free_guidance_of_tiles():
    given = ((COND, TEXT), (COND, -TEXT))
    plain, over_tiles = (cfg(p, *given, 4.0)(jnp.asarray(Z), jnp.asarray(T)) for p in (pointwise, tiled(pointwise, 16, 8, 2)))
    np.testing.assert_allclose(over_tiles, plain, atol=2e-3)


@pytest.mark.parametrize("covered", [(16, 16), (24, 31), (20, 40)])
def test_padding_changes_nothing_and_is_not_computed(covered):
    h, w = covered
    groups = []

    def counting(z, t, given):
        jax.debug.callback(lambda: groups.append(1))
        return blur(z)

    run = jax.jit(lambda z, size: tiled(counting, 16, 8, 1, tuple(size))(z, jnp.asarray(T), None))
    padded = run(Z, np.array(covered))
    jax.effects_barrier()
    exact = tiled(blur, 16, 8)(jnp.asarray(Z[:, :h, :w]), jnp.asarray(T), None)
    np.testing.assert_allclose(padded[:, :h, :w], exact, atol=1e-5)
    assert not padded[:, h:].any() and not padded[:, :, w:].any()
    assert len(groups) == (1 + -(-(h - 16) // 8)) * (1 + -(-(w - 16) // 8))


def enlarge(z):
    return jnp.repeat(jnp.repeat(blur(z), 2, 1), 2, 2)


def test_guidance_through_a_tiled_decoder_is_that_of_the_whole():
    z0, target = jnp.asarray(Z[:1]), jnp.asarray(np.random.default_rng(1).random((1, 48, 80, 3), np.float32))
    decoders = enlarge, tiled_decode(enlarge, 2, 16, 8)
    whole, over_tiles = (jax.jit(rgb_guidance(decode, target, 500.0, 2))(z0, jnp.int32(5)) for decode in decoders)
    assert jnp.linalg.norm(over_tiles - whole) < 0.02 * jnp.linalg.norm(whole)
    assert jnp.abs(whole).max() > 0.1


def test_a_tiled_decoders_gradient_holds_one_tile():
    def deep(z):
        for _ in range(8):
            z = jnp.sin(blur(jnp.tile(z, 4)))[..., :3]
        return z

    z = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
    held = [
        jax.jit(jax.grad(lambda z, d=d: (d(z) ** 2).sum())).lower(z).compile().memory_analysis().temp_size_in_bytes
        for d in (deep, tiled_decode(deep, 1, 16, 8))
    ]
    assert held[1] < held[0] / 2
