"""Impossible values of a recipe, refused before anything is compiled."""

import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from diffbir_jax.degradation.recipes import find_recipe
from diffbir_jax.errors import InputError
from diffbir_jax.models.attention import IMPLEMENTATIONS as ATTENTIONS
from diffbir_jax.models.conv import IMPLEMENTATIONS as CONVOLUTIONS
from diffbir_jax.options import PRECISIONS
from diffbir_jax.training.config import SAMPLING, TASKS, has_image_loss
from diffbir_jax.training.state import ALIGNMENT

POSITIVE = (
    "steps", "log_every", "checkpoint_every", "keep", "noises", "optimizer.learning_rate", "optimizer.clip", "optimizer.accumulate",
    "data.crop", "data.batch", "data.prefetch", "guard.patience", "validation.every", "validation.sampling_steps",
)  # fmt: skip
NOT_NEGATIVE = (
    "seed", "keep_every", "data.workers", "guard.sigma", "optimizer.warmup", "optimizer.final", "optimizer.weight_decay",
    "kl_weight", "validation.images", "image_loss.pixel", "image_loss.perceptual", "image_loss.adversarial",
)  # fmt: skip
BELOW_1 = ("optimizer.ema", "optimizer.b1", "optimizer.b2", "control_dropped")
CHOICES = {
    "task": tuple(TASKS),
    "precision": tuple(PRECISIONS),
    "frozen_precision": tuple(PRECISIONS),
    "conv_implementation": ("auto", *CONVOLUTIONS),
    "attention_implementation": ("auto", *ATTENTIONS),
    "optimizer.schedule": ("cosine", "step", "constant"),
    "data.crop_mode": ("random", "centre", "none"),
    "branch": ("LAControlNet", "ControlNet"),
    "trained": ("all", "added"),
}


def check(config: ConfigDict) -> None:
    """Raises InputError where a value is impossible: names the key, what was given and what is accepted."""
    flat = flatten(json.loads(config.to_json()))
    for key, choices in CHOICES.items():
        if key in flat and flat[key] not in choices:
            raise InputError(f"{key} is {flat[key]!r}; give one of {', '.join(choices)}")
    _check_numbers(flat)
    if config.task in ("stage1", "stage2") and not config.data.recipe:
        raise InputError(f"data.recipe is empty and {config.task} learns from degraded images; give one, for example codeformer")
    _check_data(config.data, config.validation)
    if config.task in ("prior", "stage2"):
        _check_sampling(config)
    if config.task == "stage2":
        _check_stage2(config)
    for drop in config.optimizer.drops:
        if not (isinstance(drop, tuple | list) and len(drop) == 2 and _are_numbers(drop) and drop[0] > 0 < drop[1]):
            raise InputError(f"optimizer.drops has {drop}; give pairs of an update and a factor, for example ((30000, 0.1),)")


def check_devices(config: ConfigDict, devices: int) -> None:
    """Raises InputError where the batch or the optimizer's state cannot be shared out."""
    parts = devices * config.optimizer.accumulate
    if config.data.batch % parts:
        what = f"the {devices} devices" + (f" x optimizer.accumulate {config.optimizer.accumulate}" if parts > devices else "")
        raise InputError(f"data.batch is {config.data.batch}; give a multiple of {what}")
    if config.optimizer.sharded and ALIGNMENT % devices:
        raise InputError(f"optimizer.sharded is True on {devices} devices; give a power of two of them, or False")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested groups as "group.key"; an empty group as itself."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        nested = flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {prefix + key: value}
        flat |= nested
    return flat


def difference(saved: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """The keys in which two configurations differ, and how."""
    a, b = flatten(saved), flatten(given)
    keys = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
    return "; ".join(f"{key} was {a.get(key)}, is {b.get(key)}" for key in keys)


def _check_numbers(flat: dict[str, Any]) -> None:
    for key in POSITIVE:
        if flat.get(key, 1) <= 0:
            raise InputError(f"{key} is {flat[key]}; give a number above 0")
    for key in NOT_NEGATIVE:
        if flat.get(key, 0) < 0:
            raise InputError(f"{key} is {flat[key]}; give 0 or more")
    for key in BELOW_1:
        if not 0 <= flat.get(key, 0) < 1:
            raise InputError(f"{key} is {flat[key]}; give 0 to below 1")


def _are_numbers(values: Any) -> bool:
    return all(isinstance(x, int | float) for x in values)


def _check_data(data: ConfigDict, validation: ConfigDict) -> None:
    if data.scale and not (len(data.scale) == 2 and _are_numbers(data.scale) and 0 < data.scale[0] <= data.scale[1] <= 1):
        raise InputError(
            f"data.scale is {data.scale}; give two factors 0 < low <= high <= 1, or () to keep 0.7 to 1 of the shorter side"
        )
    if data.recipe:
        find_recipe(data.recipe, data.recipe_overrides.to_dict())
    elif data.recipe_overrides:
        raise InputError("data.recipe_overrides has no recipe to change; give data.recipe too")
    if not (data.source or data.folder):
        raise InputError("no photographs given; add --config.data.folder=FOLDER or --config.data.source=SOURCE")
    if data.source and data.folder:
        raise InputError(f"data.source is {data.source} and data.folder is {data.folder}; give one of them")
    if validation.images and not validation.source:
        raise InputError(f"validation.images is {validation.images}; add --config.validation.source=SOURCE, photographs kept apart")


def _check_stage2(config: ConfigDict) -> None:
    if not 0 <= config.low_steps <= 1:
        raise InputError(f"low_steps is {config.low_steps}; give 0 to 1, the share of the steps from the first quarter")
    strength = config.image_loss.strength
    if not 0 < strength <= 1:
        raise InputError(f"image_loss.strength is {strength}; give above 0 to 1, as restorations have it")
    if config.validation.sampling_steps > 1000:
        raise InputError(f"validation.sampling_steps is {config.validation.sampling_steps}; give 1 to 1000, for example 50")
    if config.branch == "ControlNet" and has_image_loss(config):
        raise InputError("branch ControlNet has no condition latent to start from; give image_loss weights of 0")
    if config.image_loss.decoder and not has_image_loss(config):
        raise InputError("image_loss.decoder is on, but no loss sees an image; give image_loss.pixel, perceptual or adversarial")
    if config.noises > 1 and has_image_loss(config):
        raise InputError(f"image_loss takes one step an image and noises is {config.noises}; give noises 1")
    if not 0 <= config.captions_dropped <= 1:
        raise InputError(f"captions_dropped is {config.captions_dropped}; give 0 to 1, the share that gets the empty prompt")
    if not 0 <= config.noise_augmentation <= 1000:
        raise InputError(f"noise_augmentation is {config.noise_augmentation}; give 0 (none) to 1000, for example 200")
    if config.branch == "ControlNet" and config.noise_augmentation:
        raise InputError("branch ControlNet has no condition latent to diffuse; give noise_augmentation 0")
    if config.trained == "added" and config.control_dropped:
        raise InputError("trained added leaves the prior's copy as it is; give control_dropped 0")


def _check_sampling(config: ConfigDict) -> None:
    if wrong := config.sampling.keys() - SAMPLING.keys():
        raise InputError(f"sampling has {', '.join(sorted(wrong))}; its keys are {', '.join(SAMPLING)}")
    if config.task == "prior" and (missing := SAMPLING.keys() - config.sampling.keys()):
        raise InputError(f"sampling lacks {', '.join(sorted(missing))}; give keys one by one, as --config.sampling.zero_snr=True")
    if config.sampling.get("parameterisation", "v") not in ("eps", "v"):
        raise InputError(f"sampling.parameterisation is {config.sampling.parameterisation!r}; give eps or v")
    if config.sampling.get("zero_snr") and config.sampling.get("parameterisation") == "eps":
        raise InputError("sampling.zero_snr ends in pure noise, from which eps tells nothing; give sampling.parameterisation v")
