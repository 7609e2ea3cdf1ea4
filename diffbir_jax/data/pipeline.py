"""Training batches with Grain: crop, flip, degrade. Each example depends on the seed and its place in the stream alone."""

import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import parent_process
from typing import Any, Protocol, runtime_checkable

import cv2
import grain
import numpy as np
from absl import flags
from jaxtyping import UInt8

from diffbir_jax.data.photos import Photo
from diffbir_jax.degradation.operations import apply
from diffbir_jax.degradation.recipes import Range, Recipe, draw
from diffbir_jax.errors import InputError

KEPT = (0.7, 1.0)  # share of the shorter side that a random crop keeps, when no scale is asked for
CROP_MODES = ("random", "centre", "none")


@runtime_checkable
class Source(Protocol):
    """Random access to photos."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Photo: ...


@dataclass(frozen=True)
class Crop:
    """A square of a photo, resampled by area to `size`, then mirrored where `flip`."""

    top: int
    left: int
    side: int
    size: int
    flip: bool


def training_batches(
    source: Source,
    *,
    batch_size: int,
    crop_size: int,
    recipe: Recipe | None,
    seed: int,
    crop_mode: str = "random",
    crops_scale: Range | None = None,
    process_index: int = 0,
    process_count: int = 1,
    num_workers: int = 0,
    num_threads: int = 1,
    prefetch: int = 4,
) -> grain.IterDataset:
    """Endless batches over `source`, its order shuffled anew each time round.

    Args:
        batch_size: examples of this process.
        crop_size: side of the square crops, in pixels.
        recipe: how the low quality image is made; None: no "lq".
        crop_mode: "random"; "centre", the largest square; "none", photos already of the crops' size. All are flipped at random.
        crops_scale: of random crops, the range of the factor by which a photo is reduced before (at most 1); None: as in DiffBIR's
            training, the crop keeps 0.7 to 1 of the shorter side. A photo too small for the scale drawn gives its shorter side.
        process_index, process_count: this process takes every `process_count`-th example of the stream: together they take the
            examples that one alone would, each index once an epoch.
        num_workers: processes; 0 works in this one. The batches are the same for any number.
        num_threads: that make batches ahead, in each process; 0 makes each when asked for.
        prefetch: batches held ready, in each process.

    Returns:
        A Grain dataset of {"hq", "lq", "prompt"}: images float32 (batch_size, crop_size, crop_size, 3) in [0, 1], prompts an array
        of strings. `iter` of it has get_state and set_state; a state is for the same number of workers, and of any process.

    Raises:
        InputError: a number out of its range, an unknown mode, or "none" with photos of another size.
    """
    _check_least(batch_size=(batch_size, 1), crop_size=(crop_size, 1), process_index=(process_index, 0))
    _check_least(num_workers=(num_workers, 0), num_threads=(num_threads, 0), prefetch=(prefetch, 1))
    if process_index >= process_count:
        raise InputError(f"process_index is {process_index}; give less than process_count, which is {process_count}")
    _check_crop(source, crop_size, crop_mode, crops_scale)
    example = partial(make_example, crop_size=crop_size, crop_mode=crop_mode, crops_scale=crops_scale, recipe=recipe)
    examples = grain.MapDataset.source(source).seed(seed).shuffle().repeat().random_map(example)
    batches = examples[process_index::process_count].batch(batch_size, drop_remainder=True)
    batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch))
    if not num_workers:
        return batches
    if not flags.FLAGS.is_parsed():  # Grain's workers read absl's flags, and our commands do not use absl
        flags.FLAGS.mark_as_parsed()
    return batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers), worker_init_fn=_start_worker)


def make_example(
    photo: Photo,
    rng: np.random.Generator,
    *,
    crop_size: int,
    recipe: Recipe | None,
    crop_mode: str = "random",
    crops_scale: Range | None = None,
) -> dict[str, Any]:
    """One training example: a crop of the photo, its degraded copy, its prompt; see `training_batches`."""
    crop = draw_crop(photo.image.shape[:2], crop_size, crops_scale, rng, crop_mode)
    if crop_mode == "none":
        _check_size(photo, crop_size)
    hq = take_crop(photo.image, crop).astype(np.float32) / np.float32(255)
    lq = {} if recipe is None else {"lq": apply(draw(recipe, rng, (crop_size, crop_size)), hq)}
    return {"hq": hq, **lq, "prompt": photo.prompt}


def draw_crop(
    photo_size: Sequence[int], crop_size: int, crops_scale: Range | None, rng: np.random.Generator, mode: str = "random"
) -> Crop:
    """Draws a crop of a photo of `photo_size` (height, width); see `training_batches`."""
    height, width = photo_size
    short = min(height, width)
    if mode != "random":
        return centre_crop(photo_size, crop_size, flip=bool(rng.integers(2)))
    side = round(crop_size / rng.uniform(*crops_scale)) if crops_scale else round(short * rng.uniform(*KEPT))
    side = max(1, min(side, short))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return Crop(int(top), int(left), side, crop_size, bool(rng.integers(2)))


def centre_crop(photo_size: Sequence[int], crop_size: int, flip: bool = False) -> Crop:
    """The largest square amid a photo of `photo_size` (height, width): as if its shorter side were resized to `crop_size` first."""
    height, width = photo_size
    side = min(height, width)
    return Crop((height - side) // 2, (width - side) // 2, side, crop_size, flip)


def take_crop(photo: UInt8[np.ndarray, "H W 3"], crop: Crop) -> UInt8[np.ndarray, "S S 3"]:
    """Cuts out first and resamples after, so the cost does not grow with the photo; too small a square is enlarged (bicubic)."""
    patch = photo[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
    if crop.side != crop.size:
        interpolation = cv2.INTER_AREA if crop.side > crop.size else cv2.INTER_CUBIC
        patch = cv2.resize(patch, (crop.size, crop.size), interpolation=interpolation)
    return np.ascontiguousarray(patch[:, ::-1] if crop.flip else patch)


def _start_worker(*_: int) -> None:
    """A worker keeps to one core, and ends with its parent, even a killed one: Grain's own would wait for it forever.

    Signals are its parent's: Slurm and terminals send them to every process, and the parent needs batches until it has saved.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


def _check_least(**options: tuple[int, int]) -> None:
    for name, (value, least) in options.items():
        if value < least:
            raise InputError(f"{name} is {value}; give at least {least}")


def _check_crop(source: Source, size: int, mode: str, scale: Range | None) -> None:
    if mode not in CROP_MODES:
        raise InputError(f"crop_mode is {mode!r}; give one of {', '.join(CROP_MODES)}")
    if scale and not 0 < scale[0] <= scale[1] <= 1:
        raise InputError(f"crops_scale is {scale}; give (min, max) with 0 < min <= max <= 1")
    if mode == "none":
        _check_size(source[0], size)


def _check_size(photo: Photo, size: int) -> None:
    height, width = photo.image.shape[:2]
    if (height, width) != (size, size):
        raise InputError(f"{photo.name} is {width}x{height} and crop_mode none takes {size}x{size}; give centre or random")
