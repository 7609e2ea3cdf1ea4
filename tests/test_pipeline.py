"""Restoring as a function: shapes, seeds, knobs that recompile nothing, guidance that holds on to stage 1."""

import dataclasses
import gc
import subprocess
import sys
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax import InputError, RestoreOptions, load_model, pipeline, programs, restore_batch, restore_images
from diffbir_jax.diffusion.guidance import latent_guidance
from diffbir_jax.diffusion.samplers import SAMPLERS
from diffbir_jax.imaging.resizing import bucket, short_edge
from diffbir_jax.options import SAMPLERS as NAMES

STEPS = 3


def photo(height=40, width=48, seed=0):
    return np.random.default_rng(seed).random((height, width, 3), np.float32)


def traced(model, image, options):
    """The trace of one restoration."""
    [(_, result)] = pipeline.restore_jobs([(0, job(model, image, options, keep=True))], pipeline.local_mesh(1))
    return result.trace


def job(model, image, options, **how):
    return pipeline.Job(model, image, options.completed(model.defaults), **how)


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
    compiled = len(programs.compiled)
    changed = {"guidance_scale": 300.0, "control_strength": 0.5, "seed": 5, "guidance_start": 700, "guidance_stop": 100}
    for name, value in changed.items():
        assert not np.array_equal(first, restore(small_model, photo(), **{"guidance_scale": 1.0, name: value})), name
    assert not np.array_equal(first[:33], restore(small_model, photo(33, 41)))  # padded to the same shape
    assert len(programs.compiled) == compiled


def test_programs_outlive_their_models_and_are_few(small_model_folder, monkeypatch):
    """A program is bound when it is made: that it is no longer kept does not stop it."""
    model, mesh = load_model(small_model_folder), pipeline.local_mesh(2)
    monkeypatch.setattr(programs, "_programs", {})
    monkeypatch.setattr(programs, "MOST_PROGRAMS", 2)
    first, other, again, last = (programs.stage1_program(model, mesh, 2, (side, 16)) for side in (16, 32, 16, 48))
    kept = [key[-1].shape[1] for key in programs._programs]
    assert kept == [16, 48]
    programs.stage1_program(model, mesh, 2, (32, 16))
    assert np.array_equal(first(np.ones((2, 16, 16, 3), np.float32)), again(np.ones((2, 16, 16, 3), np.float32)))
    gone = weakref.ref(model)
    del model, first, other, again, last
    gc.collect()
    assert gone() is None and len(programs._programs) == 2


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
    plain = job(small_model, photo(), RestoreOptions())
    assert plain.lq.shape == (48, 48, 3) and plain.size == plain.reg_size == plain.target == (40, 48)
    assert np.array_equal(plain.lq[40:], np.broadcast_to(plain.lq[39], (8, 48, 3)))
    frame = plain.padded(plain.lq[:40] + 1)
    assert np.array_equal(frame[40:], np.broadcast_to(plain.lq[39] + 1, (8, 48, 3)))
    small = job(small_model, photo(16, 21), RestoreOptions())
    assert small.size == (32, 42) and small.target == (16, 21) and small.lq.shape == (32, 48, 3)


def test_larger_sizes_are_few_unless_the_least_is_asked_for(small_model):
    """By reflection, where the multiple alone would have been less."""
    image = photo(70, 48)
    few, least = (job(small_model, image, RestoreOptions(padding=how)) for how in ("bucket", "least"))
    assert few.frame == (96, 48) and least.frame == (80, 48)
    assert np.array_equal(few.lq[70:], image[:43:-1]) and np.array_equal(least.lq[70:], np.broadcast_to(image[69], (10, 48, 3)))


def test_a_hundred_sizes_are_a_handful_of_shapes():
    """With the embedded model's shorter side of 256 pixels."""
    sizes = [short_edge(tuple(map(int, size)), 256) for size in np.random.default_rng(0).integers(64, 256, (100, 2))]
    assert len(set(sizes)) > 75 and len({tuple(bucket(n, 64) for n in size) for size in sizes}) <= 9


def test_every_denoising_step_is_reported(small_model):
    seen = []
    with programs.on_step(lambda: seen.append(1)):
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
        trace = traced(small_model, photo(32, 32), options)
        return len(trace["z"]), np.mean((trace["z"][-1] - trace["cond_latent"][0]) ** 2)

    (steps, near), (all_steps, far) = distance(start="condition", strength=0.1), distance()
    assert (steps, all_steps) == (5, 50) and near < 0.3 * far


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 0.5}, "strength is 0.5, which needs --start condition"),
        ({"eta": 0.5}, "eta is 0.5 and sampler is ddpm; only --sampler ddim"),
        ({"negative_prompt": "fog"}, "negative-prompt has no effect at cfg 1"),
    ],
)
def test_what_would_have_no_effect_is_refused(small_model, options, message):
    with pytest.raises(InputError, match=message):
        restore(small_model, photo(), **options)


def test_a_models_own_negative_prompt_may_have_no_effect():
    options = RestoreOptions(cfg=1).completed({"cfg": 4.0, "negative_prompt": "fog"})
    assert options.negative_prompt == "fog" and options.cfg == 1
    assert RestoreOptions(negative_prompt="rain", rescale_cfg=True).completed({}).negative_prompt == "rain"
    assert RestoreOptions(eta=0.5).completed({"sampler": "ddim"}).eta == 0.5


def test_a_models_guidance_is_one_choice():
    """Its weights are no part of a scale that the user gives: a strong plain guidance reaches stage 1 everywhere."""
    prefers = {"guidance_scale": 900.0, "guidance_weights": "region"}
    asked = [RestoreOptions(**given).completed(prefers) for given in ({}, {"guidance_scale": 5.0}, {"guidance_weights": "plain"})]
    chosen = [(options.guidance_scale, options.guidance_weights) for options in asked]
    assert chosen == [(900.0, "region"), (5.0, "plain"), (900.0, "plain")]
    none = RestoreOptions().completed({})
    assert (none.guidance_scale, none.guidance_weights) == (0.0, "plain")


def test_guidance_moves_a_pixel_alike_at_every_size_where_the_model_says_so(small_model):
    options, said = RestoreOptions(guidance_scale=10.0).completed({}), small_model.sampling | {"guidance_side": 32}
    saying = dataclasses.replace(small_model, sampling=said)

    def shift(model, side):
        x = jnp.zeros((1, side, side, 4))
        scale = programs.shared_of(model, options, (side, side)).guidance_scale
        return float(latent_guidance(x + 1, scale, repeats=1)(x, jnp.int32(1))[0, 0, 0, 0])

    assert shift(saying, 32) == shift(saying, 64) == shift(small_model, 32) == 4 * shift(small_model, 64) > 0


OFTEN = ("ddpm", "ddim", "dpm++_2m", "dpm++_sde", "heun", "unipc")  # one of every kind


@pytest.mark.parametrize("sampler", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in NAMES])
def test_every_sampler_restores(small_model, sampler):
    """Guidance changes the result; evaluations are counted beforehand."""
    seen, image = [], photo(32, 32)
    options = RestoreOptions(steps=STEPS, sampler=sampler).completed(small_model.defaults)
    with programs.on_step(lambda: seen.append(1)):
        restored = restore(small_model, image, sampler=sampler)
    assert restored.std() > 0
    assert len(seen) == pipeline.evaluations(small_model, options)
    assert not np.array_equal(restored, restore(small_model, image, sampler=sampler, guidance_scale=200.0))


def test_the_names_of_the_samplers_are_the_samplers():
    assert set(NAMES) == set(SAMPLERS)


@pytest.mark.parametrize("space", ["latent", "rgb"])
def test_region_weights_change_what_guidance_holds(small_model, space):
    options = {"guidance_space": space, "guidance_scale": 500.0}
    plain, region = (restore(small_model, photo(), guidance_weights=how, **options) for how in ("plain", "region"))
    assert not np.array_equal(plain, region)


def test_augmentation_by_noise_changes_the_condition_alone(small_model):
    plain, augmented = (traced(small_model, photo(), RestoreOptions(steps=1, noise_aug=n)) for n in (0, 400))
    assert np.array_equal(plain["cond_latent"], augmented["cond_latent"]) and not np.array_equal(plain["z"], augmented["z"])


def test_sizes_that_are_asked_for(small_model):
    assert restore(small_model, photo(), long_side=96).shape == (80, 96, 3)
    assert restore(small_model, photo(), upscale=2, resize_back=True).shape == (40, 48, 3)
    with pytest.raises(InputError, match="multiples of 16"):
        restore(small_model, photo(), diffusion_tile=72, diffusion_overlap=16)
    with pytest.raises(InputError, match="upscale is 2 and long-side is 96"):
        RestoreOptions(upscale=2, long_side=96)
    with pytest.raises(InputError, match="stage1-overlap is 256; give at most half of stage1-tile, 128"):
        RestoreOptions(stage1_tile=256)


@pytest.mark.parametrize("options", [{}, pytest.param({"guidance_scale": 100.0, "guidance_space": "rgb"}, marks=pytest.mark.slow)])
def test_tiles_agree_with_the_whole(small_model, options):
    """Where the networks see no further than the overlap they agree; here they do, so little is asked."""
    image = photo(96, 144)
    sides = {"stage1_tile": 64, "stage1_overlap": 32, "vae_tile": 64, "diffusion_tile": 64, "diffusion_overlap": 32}
    whole = restore(small_model, image, tiles="off", **options)
    tiled = restore(small_model, image, tiles="on", **sides, **options)
    assert 0 < np.sqrt(np.mean((whole - tiled) ** 2)) < 0.05


def test_what_does_not_fit_the_budget_is_tiled(small_model):
    little, much = (job(small_model, photo(640, 640), RestoreOptions(memory_budget=budget)) for budget in ("1MB", "1TB"))
    assert any(little.tiled) and not any(much.tiled)


def test_devices_share_the_images_and_change_nothing():
    """8 simulated devices against one, with short last batches and two sizes; the programs hold no collective."""
    script = Path(__file__).parent / "eight_devices.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "8 devices" in done.stdout


def test_one_options_for_each_image(small_model):
    images, seeds = [photo(seed=1), photo(seed=2)], [3, 4]
    together = restore_batch(small_model, images, [RestoreOptions(steps=STEPS, seed=seed) for seed in seeds])
    for image, seed, result in zip(images, seeds, together, strict=True):
        np.testing.assert_allclose(result, restore(small_model, image, seed=seed), atol=1e-4)
    with pytest.raises(InputError, match="2 images and 1 options"):
        restore_batch(small_model, images, [RestoreOptions()])
    with pytest.raises(InputError, match="batch_size is 0"):
        restore_batch(small_model, images, batch_size=0)


def test_a_batch_on_one_device_changes_nothing(small_model):
    images, options = [photo(seed=i) for i in range(3)], RestoreOptions(steps=STEPS, guidance_scale=200.0)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    for one, other in zip(
        restore_batch(small_model, images, options, mesh, 2), restore_images(small_model, images, options), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-4)
