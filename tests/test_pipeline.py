"""Restoring as a function: shapes, seeds, knobs that recompile nothing, guidance that holds on to stage 1."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax import InputError, RestoreOptions, load_model, pipeline, restore_images

STEPS = 3


def photo(height=40, width=48, seed=0):
    return np.random.default_rng(seed).random((height, width, 3), np.float32)


def compiled():
    return pipeline.program.cache_info().misses + pipeline.stage1_program.cache_info().misses


def restore(model, image, **options):
    return restore_images(model, [image], RestoreOptions(steps=STEPS, **options))[0]


@pytest.mark.parametrize(("size", "upscale"), [((40, 48), 1), ((16, 16), 1), ((17, 90), 1), ((20, 24), 2.5)])
def test_any_size_comes_back_times_the_upscale(small_model, size, upscale):
    restored = restore(small_model, photo(*size), upscale=upscale)
    assert restored.shape == (round(size[0] * upscale), round(size[1] * upscale), 3)
    assert restored.dtype == np.float32 and restored.min() >= 0 and restored.max() <= 1


def test_same_seed_same_pixels_whatever_else_is_restored(small_model):
    alone = restore(small_model, photo())
    after, again = restore_images(small_model, [photo(seed=1), photo()], RestoreOptions(steps=STEPS))
    assert np.array_equal(alone, again) and not np.array_equal(alone, after)
    assert not np.array_equal(alone, restore(small_model, photo(), seed=7))


def test_knobs_do_not_recompile(small_model):
    first = restore(small_model, photo(), guidance_scale=1.0)
    programs = compiled()
    changed = {"guidance_scale": 300.0, "control_strength": 0.5, "seed": 5, "guidance_start": 700, "guidance_stop": 100}
    for name, value in changed.items():
        assert not np.array_equal(first, restore(small_model, photo(), **{"guidance_scale": 1.0, name: value})), name
    assert not np.array_equal(first[:33], restore(small_model, photo(33, 41)))  # padded to the same shape
    assert compiled() == programs


@pytest.mark.parametrize("space", ["latent", "rgb"])
def test_strong_guidance_moves_the_result_toward_the_encoded_stage1(small_model, space):
    model, image = small_model, photo(48, 48)
    reg = jnp.asarray(restore(model, image, stage1_only=True))
    params = {"params": model.params["autoencoder"]}
    net = model.nets["autoencoder"]
    through = np.asarray(net.apply(params, net.apply(params, reg[None], method="encode"), method="decode"))[0]

    def distance(scale):
        restored = restore(model, image, guidance_space=space, guidance_scale=scale)
        return np.mean((restored - np.clip(through, 0, 1)) ** 2)

    numbers = 4 * 24 * 24 if space == "latent" else 100  # a scale near the count of numbers averaged over
    assert distance(0.1 * numbers) < distance(0.0)


def test_sizes_on_the_way(small_model):
    """The shorter side is at least 32, both are padded to multiples of 16 by the edge, and anew after stage 1."""
    job = pipeline.Job(small_model, photo(), RestoreOptions())
    assert job.lq.shape == (1, 48, 48, 3) and job.size == job.reg_size == job.target == (40, 48)
    assert np.array_equal(job.lq[0, 40:], np.broadcast_to(job.lq[0, 39], (8, 48, 3)))
    frame = job.frame(job.lq[0, :40] + 1)
    assert np.array_equal(frame[0, 40:], np.broadcast_to(job.lq[0, 39] + 1, (8, 48, 3)))
    small = pipeline.Job(small_model, photo(16, 21), RestoreOptions())
    assert small.size == (32, 42) and small.target == (16, 21) and small.lq.shape == (1, 32, 48, 3)


def test_every_denoising_step_is_reported(small_model):
    seen = []
    with pipeline.on_step(lambda: seen.append(1)):
        restore(small_model, photo())
    assert len(seen) == STEPS


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 40, 3), np.float32), "40x8"),
        (np.zeros((40, 40), np.float32), "float32 [height, width, 3]"),
        (np.zeros((40, 40, 3), np.uint8), "uint8"),
    ],
)
def test_what_is_not_an_image_is_refused(small_model, image, message):
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        restore(small_model, image)


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="tiny"):
        load_model("huge")


def test_a_weak_start_from_the_condition_stays_near_it(small_model):
    """Fewer steps are taken, from less noise: the latent differs less from stage 1's."""

    def distance(**options):
        options = RestoreOptions(steps=50, **options)
        _, trace = pipeline.Job(small_model, photo(32, 32), options, keep=True).run()
        return len(trace["z"]), np.mean((trace["z"][-1] - trace["cond_latent"][0]) ** 2)

    (steps, near), (all_steps, far) = distance(start="condition", strength=0.1), distance()
    assert (steps, all_steps) == (5, 50) and near < 0.3 * far


def test_a_strength_below_one_from_noise_is_refused(small_model):
    with pytest.raises(InputError, match="strength is 0.5, which needs --start condition"):
        restore(small_model, photo(), strength=0.5)
