"""Training batches with Grain: crop, flip, degrade. Each example depends on (seed, its index) alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import cv2
import grain
import numpy as np
from absl import flags
from jaxtyping import Float32, UInt8

from diffbir_jax.degradation.operations import apply
from diffbir_jax.degradation.recipes import Range, Recipe, draw
from diffbir_jax.errors import InputError

KEPT = (0.7, 1.0)  # share of the shorter side that a crop keeps, when no scale is asked for


@runtime_checkable
class Source(Protocol):
    """Random access to photos, uint8 RGB."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "H W 3"]: ...


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
    crops_scale: Range | None = None,
    num_workers: int = 0,
    num_threads: int = 1,
    prefetch: int = 4,
) -> grain.IterDataset:
    """Endless batches over `source`, its order shuffled anew each time round.

    Args:
        crop_size: side of the square crops, in pixels.
        recipe: how the low quality image is made; None: no "lq".
        crops_scale: the range of the factor by which a photo is reduced before the crop (at most 1); None: as in DiffBIR's
            training, the crop keeps 0.7 to 1 of the shorter side. A photo too small for the scale drawn gives its shorter side.
        num_workers: processes; 0 works in this one. The batches are the same for any number.
        num_threads: that make batches ahead, in each process; 0 makes each when asked for.
        prefetch: batches held ready.

    Returns:
        A Grain dataset of {"hq", "lq"}, each float32 (batch_size, crop_size, crop_size, 3) in [0, 1]; `iter` of it has get_state
        and set_state.

    Raises:
        InputError: a size below 1, or a scale out of (0, 1].
    """
    _check(batch_size, crop_size, crops_scale)
    example = partial(make_example, crop_size=crop_size, crops_scale=crops_scale, recipe=recipe)
    examples = grain.MapDataset.source(source).seed(seed).shuffle().repeat().random_map(example)
    batches = examples.batch(batch_size).to_iter_dataset(grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch))
    if not num_workers:
        return batches
    if not flags.FLAGS.is_parsed():  # Grain's workers read absl's flags, and our commands do not use absl
        flags.FLAGS.mark_as_parsed()
    return batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))


def make_example(
    photo: UInt8[np.ndarray, "H W 3"], rng: np.random.Generator, *, crop_size: int, crops_scale: Range | None, recipe: Recipe | None
) -> dict[str, Float32[np.ndarray, "S S 3"]]:
    """One training example: a random crop of the photo, and its degraded copy."""
    crop = draw_crop(photo.shape[:2], crop_size, crops_scale, rng)
    hq = take_crop(photo, crop).astype(np.float32) / np.float32(255)
    if recipe is None:
        return {"hq": hq}
    return {"hq": hq, "lq": apply(draw(recipe, rng, (crop_size, crop_size)), hq)}


def draw_crop(photo_size: Sequence[int], crop_size: int, crops_scale: Range | None, rng: np.random.Generator) -> Crop:
    """Draws a crop of a photo of `photo_size` (height, width); see `training_batches`."""
    height, width = photo_size
    short = min(height, width)
    side = round(crop_size / rng.uniform(*crops_scale)) if crops_scale else round(short * rng.uniform(*KEPT))
    side = max(1, min(side, short))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return Crop(int(top), int(left), side, crop_size, bool(rng.integers(2)))


def take_crop(photo: UInt8[np.ndarray, "H W 3"], crop: Crop) -> UInt8[np.ndarray, "S S 3"]:
    """Cuts out first and resamples after, so the cost does not grow with the photo; too small a square is enlarged (bicubic)."""
    patch = photo[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
    if crop.side != crop.size:
        interpolation = cv2.INTER_AREA if crop.side > crop.size else cv2.INTER_CUBIC
        patch = cv2.resize(patch, (crop.size, crop.size), interpolation=interpolation)
    return np.ascontiguousarray(patch[:, ::-1] if crop.flip else patch)


def _check(batch_size: int, crop_size: int, crops_scale: Range | None) -> None:
    for name, value in (("batch_size", batch_size), ("crop_size", crop_size)):
        if value < 1:
            raise InputError(f"{name} is {value}; give at least 1")
    if crops_scale and not 0 < crops_scale[0] <= crops_scale[1] <= 1:
        raise InputError(f"crops_scale is {crops_scale}; give (min, max) with 0 < min <= max <= 1")
