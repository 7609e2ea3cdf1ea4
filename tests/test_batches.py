"""Of diffbir_jax/data/pipeline.py."""

import cv2
import numpy as np
import pytest

from diffbir_jax.data.pipeline import Crop, draw_crop, make_example, take_crop, training_batches
from diffbir_jax.degradation.recipes import RECIPES
from diffbir_jax.errors import InputError

RECIPE = RECIPES["codeformer"]


def photos(count=5):
    rng = np.random.default_rng(0)
    sizes = [(90 + 10 * i, 140 - 10 * i) for i in range(count)]
    return [cv2.resize(rng.integers(0, 256, (9, 9, 3), np.uint8), size, interpolation=cv2.INTER_CUBIC) for size in sizes]


def batches(**changes):
    options = {"batch_size": 2, "crop_size": 32, "recipe": RECIPE, "seed": 3, "crops_scale": (0.5, 1.0)}
    return iter(training_batches(photos(), **options | changes))


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)


def test_a_batch_is_a_pair_of_images():
    batch = next(batches())
    assert batch.keys() == {"hq", "lq"}
    for image in batch.values():
        assert image.shape == (2, 32, 32, 3) and image.dtype == np.float32
        assert 0 <= image.min() < 0.5 < image.max() <= 1
    error = np.square(batch["hq"] - batch["lq"]).mean()
    assert 1e-5 < error < 0.1  # a damaged copy of the same crop


def test_without_a_recipe_only_hq():
    assert next(batches(recipe=None)).keys() == {"hq"}


def test_batches_depend_on_the_seed_alone():
    first, second, other = batches(), batches(num_threads=0), batches(seed=4)
    drawn = [next(first) for _ in range(6)]
    assert all(same(batch, next(second)) for batch in drawn)
    assert not same(drawn[0], next(other))
    assert not any(same(drawn[0], batch) for batch in drawn[1:])  # the second time round draws anew


@pytest.mark.parametrize("num_workers", [0, 1])
def test_state_resumes_amid_an_epoch(num_workers):
    """Worker processes give the batches of none."""
    reference = batches()
    expected = [next(reference) for _ in range(6)]
    iterator = batches(num_workers=num_workers)
    assert all(same(next(iterator), batch) for batch in expected[:4])
    resumed = batches(num_workers=num_workers)
    resumed.set_state(iterator.get_state())
    for batch in expected[4:]:
        assert same(next(resumed), batch)


def test_crops_stay_inside_and_fill_their_range():
    rng = np.random.default_rng(0)
    crops = [draw_crop((200, 300), 64, (0.5, 1.0), rng) for _ in range(1000)]
    assert min(c.side for c in crops) == 64 and 120 < max(c.side for c in crops) <= 128
    assert all(0 <= c.top <= 200 - c.side and 0 <= c.left <= 300 - c.side for c in crops)
    assert np.mean([c.flip for c in crops]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([64 / c.side for c in crops]) == pytest.approx(0.75, abs=0.02)
    whole = [draw_crop((200, 300), 64, None, rng).side for _ in range(1000)]
    assert 140 <= min(whole) < 145 and 195 < max(whole) <= 200
    assert draw_crop((50, 300), 64, (0.5, 1.0), rng).side == 50


def test_taking_a_crop_is_the_mean_of_its_pixels():
    photo = photos()[0]
    crop = Crop(top=3, left=5, side=64, size=32, flip=False)
    means = photo[3:67, 5:69].reshape(32, 2, 32, 2, 3).astype(float).mean((1, 3))
    assert np.abs(take_crop(photo, crop) - means).max() <= 0.5
    flipped = take_crop(photo, Crop(3, 5, 64, 32, True))
    np.testing.assert_array_equal(flipped, take_crop(photo, crop)[:, ::-1])


def test_small_photos_are_enlarged():
    example = make_example(photos()[0], np.random.default_rng(0), crop_size=200, crops_scale=None, recipe=RECIPE)
    assert example["hq"].shape == example["lq"].shape == (200, 200, 3)


@pytest.mark.parametrize("changes", [{"batch_size": 0}, {"crop_size": 0}, {"crops_scale": (0.5, 1.5)}, {"crops_scale": (1.0, 0.5)}])
def test_bad_sizes_are_named(changes):
    with pytest.raises(InputError, match=f"^{next(iter(changes))} is "):
        batches(**changes)
