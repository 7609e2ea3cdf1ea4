"""Of diffbir_jax/data/pipeline.py."""

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from diffbir_jax.data.photos import Photo
from diffbir_jax.data.pipeline import Crop, centre_crop, draw_crop, make_example, take_crop, training_batches
from diffbir_jax.data.sources import ImageFolder
from diffbir_jax.degradation.recipes import RECIPES
from diffbir_jax.errors import InputError

RECIPE = RECIPES["codeformer"]


PROMPTS = ("", "A cat, sitting", "Bäume", "", "A house")


def photos(count=5):
    rng = np.random.default_rng(0)
    sizes = [(90 + 10 * i, 140 - 10 * i) for i in range(count)]
    images = [cv2.resize(rng.integers(0, 256, (9, 9, 3), np.uint8), size, interpolation=cv2.INTER_CUBIC) for size in sizes]
    return [Photo(image, PROMPTS[i], f"{i}.png") for i, image in enumerate(images)]


def batches(source=None, **changes):
    options = {"batch_size": 2, "crop_size": 32, "recipe": RECIPE, "seed": 3, "crops_scale": (0.5, 1.0)}
    return iter(training_batches(source or photos(), **options | changes))


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)


def test_a_batch_is_a_pair_of_images_and_a_prompt():
    batch = next(batches())
    assert batch.keys() == {"hq", "lq", "prompt"}
    for image in (batch["hq"], batch["lq"]):
        assert image.shape == (2, 32, 32, 3) and image.dtype == np.float32
        assert 0 <= image.min() < 0.5 < image.max() <= 1
    error = np.square(batch["hq"] - batch["lq"]).mean()
    assert 1e-5 < error < 0.1  # a damaged copy of the same crop


def test_without_a_recipe_only_hq():
    assert next(batches(recipe=None)).keys() == {"hq", "prompt"}


def test_batches_depend_on_the_seed_alone():
    first, second, other = batches(), batches(num_threads=0), batches(seed=4)
    drawn = [next(first) for _ in range(6)]
    assert all(same(batch, next(second)) for batch in drawn)
    assert not same(drawn[0], next(other))
    assert not any(same(drawn[0], batch) for batch in drawn[1:])  # the second time round draws anew


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_state_resumes_amid_an_epoch(num_workers):
    """Worker processes give the batches of none, prompts included."""
    reference = batches()
    expected = [next(reference) for _ in range(6)]
    iterator = batches(num_workers=num_workers)
    assert all(same(next(iterator), batch) for batch in expected[:3])
    state = json.loads(json.dumps(iterator.get_state()))  # as a checkpoint keeps it
    resumed = batches(num_workers=num_workers)
    resumed.set_state(state)
    for batch in expected[3:]:
        assert same(next(resumed), batch)
    assert {prompt for batch in expected for prompt in batch["prompt"].tolist()} == set(PROMPTS)


def test_workers_leave_signals_to_their_parent():
    iterator, reference = batches(num_workers=2, prefetch=1), batches()
    assert same(next(iterator), next(reference)) and same(next(iterator), next(reference))  # of both: they are ready
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    time.sleep(0.5)
    assert all(same(next(iterator), next(reference)) for _ in range(12))


RUN = """
import hashlib, json, sys
from pathlib import Path
from diffbir_jax.data.pipeline import training_batches
from diffbir_jax.data.sources import ImageFolder
from diffbir_jax.degradation.recipes import RECIPES

if __name__ == "__main__":
    folder, position, workers = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    dataset = training_batches(
        ImageFolder(folder), batch_size=2, crop_size=32, recipe=RECIPES["codeformer"], seed=3, num_workers=workers
    )
    batches, number = iter(dataset), 0
    if position.exists():
        number, state = json.loads(position.read_text())
        batches.set_state(state)
    while True:
        batch, number = next(batches), number + 1
        print(number, hashlib.sha256(batch["hq"].tobytes() + batch["lq"].tobytes()).hexdigest(), flush=True)
        position.with_suffix(".new").write_text(json.dumps([number, batches.get_state()]))
        position.with_suffix(".new").replace(position)
"""


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_killed_run_goes_on_where_it_was(tmp_path, num_workers):
    """SIGKILL to the run alone: its workers end by themselves; a broken photo is named once a run, by one of them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in photos():
        cv2.imwrite(str(folder / photo.name), photo.image)
    (folder / "broken.jpg").touch()
    (tmp_path / "run.py").write_text(RUN)
    command = [sys.executable, str(tmp_path / "run.py"), str(folder), str(tmp_path / "position"), str(num_workers)]
    printed = {}
    for until in (5, 10):
        printed |= dict(lines_before_the_kill(command, until, tmp_path / "errors"))
        assert (tmp_path / "errors").read_text().count("broken.jpg") == 1
    reference = batches(ImageFolder(folder), crops_scale=None)
    expected = [
        hashlib.sha256(b["hq"].tobytes() + b["lq"].tobytes()).hexdigest() for b, _ in zip(reference, range(10), strict=False)
    ]
    assert [printed[i + 1] for i in range(10)] == expected


def lines_before_the_kill(command, until, errors):
    """The numbers and hashes that a run prints, killed after number `until`."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with (
        errors.open("w") as file,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True) as run,
    ):
        for line in run.stdout:
            number, digest = line.split()
            yield int(number), digest
            if int(number) == until:
                break
        run.kill()
    deadline = time.monotonic() + 20
    while group_lives(run.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    lives = group_lives(run.pid)
    if lives:
        os.killpg(run.pid, signal.SIGKILL)
    assert not lives, "workers outlived their run"


def group_lives(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def stream(source, count, **changes):
    """Prompts in order, as they stand for the photo's index."""
    iterator = batches(source, crop_size=4, recipe=None, **changes)
    return [prompt for _ in range(count) for prompt in next(iterator)["prompt"].tolist()]


def test_processes_share_every_epoch_without_an_index_twice():
    source = [Photo(np.zeros((16, 16, 3), np.uint8), str(i)) for i in range(24)]
    shares = [stream(source, 6, process_index=i, process_count=4) for i in range(4)]  # two epochs
    for epoch in (0, 6):
        seen = sum((share[epoch : epoch + 6] for share in shares), [])
        assert sorted(map(int, seen)) == list(range(24))
    assert shares[0][:6] != shares[0][6:]
    alone = stream(source, 6, batch_size=8)
    assert alone == [share[i] for i in range(12) for share in shares]
    uneven = [stream(source[:22], 5, process_index=i, process_count=4) for i in range(4)]
    assert len({prompt for share in uneven for prompt in share[:5]}) == 20  # epochs then end amid a round of processes


def test_processes_take_the_examples_of_one():
    """Pixels too: the crop and the damage follow the place in the stream, not the process."""
    whole = next(batches(batch_size=4))
    parts = [next(batches(process_index=i, process_count=2)) for i in range(2)]
    for i in range(4):
        for name in ("hq", "lq", "prompt"):
            np.testing.assert_array_equal(whole[name][i], parts[i % 2][name][i // 2])


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


def test_centre_crops_are_the_largest_square():
    assert centre_crop((200, 300), 64) == Crop(0, 50, 200, 64, False)
    rng = np.random.default_rng(0)
    crops = {draw_crop((301, 200), 64, None, rng, "centre") for _ in range(50)}
    assert crops == {Crop(50, 0, 200, 64, False), Crop(50, 0, 200, 64, True)}


def test_mode_none_takes_photos_of_the_size_as_they_are():
    photo = photos()[0]
    square = photo._replace(image=photo.image[:32, :32])
    hq = next(batches([square], crop_mode="none", batch_size=1))["hq"][0]
    assert np.array_equal(hq, square.image / np.float32(255)) or np.array_equal(hq, square.image[:, ::-1] / np.float32(255))
    with pytest.raises(InputError, match="^0.png is 90x140 and crop_mode none takes 32x32"):
        batches(crop_mode="none")


def test_taking_a_crop_is_the_mean_of_its_pixels():
    photo = photos()[0].image
    crop = Crop(top=3, left=5, side=64, size=32, flip=False)
    means = photo[3:67, 5:69].reshape(32, 2, 32, 2, 3).astype(float).mean((1, 3))
    assert np.abs(take_crop(photo, crop) - means).max() <= 0.5
    flipped = take_crop(photo, Crop(3, 5, 64, 32, True))
    np.testing.assert_array_equal(flipped, take_crop(photo, crop)[:, ::-1])


def test_small_photos_are_enlarged():
    example = make_example(photos()[0], np.random.default_rng(0), crop_size=200, crops_scale=None, recipe=RECIPE)
    assert example["hq"].shape == example["lq"].shape == (200, 200, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 0},
        {"crop_size": 0},
        {"crops_scale": (0.5, 1.5)},
        {"crops_scale": (1.0, 0.5)},
        {"crop_mode": "left"},
        {"num_workers": -1},
        {"prefetch": 0},
        {"process_index": 4, "process_count": 4},
        {"process_index": -1},
    ],
)
def test_bad_options_are_named(changes):
    with pytest.raises(InputError, match=f"^{next(iter(changes))} is "):
        batches(**changes)
