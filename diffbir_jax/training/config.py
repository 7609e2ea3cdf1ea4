"""The keys of a recipe, their defaults, and what the recipes of the paper share."""

import ast
import functools
import runpy
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from diffbir_jax.errors import InputError

TASKS = {"autoencoder": "autoencoder", "prior": "unet", "stage1": "stage1", "stage2": "control"}  # task -> the network it trains
PREFIX = "--config."
SMOKE = {"steps": 4, "data__batch": 2, "log_every": 2, "checkpoint_every": 2}
TOY_UNET = {"kind": "UNet", "channels": (8, 8), "blocks": 1, "attention": (False, True), "head_dim": 8, "groups": 4}
TOY_SWINIR = {"kind": "SwinIR", "embed_dim": 8, "depths": (1,), "heads": (2,), "unshuffle": 2, "upsampler": "pixelshuffledirect"}
TOY_NETWORKS = {
    "unet": {**TOY_UNET, "context_dim": 16},
    "autoencoder": {"kind": "AutoencoderKL", "channels": (8, 8), "blocks": 1, "groups": 4, "mid_attention": False},
    "stage1": TOY_SWINIR,
    "text_encoder": {"kind": "TextEncoder", "width": 16, "layers": 2, "heads": 2},
}
TOY = SMOKE | {  # the smoke of a full-size recipe: everything it does, on networks and images of no size
    "data__source": "synthetic",
    "data__crop": 32,
    "data__crop_mode": "random",
    "data__workers": 0,
    "data__cache": False,
    "precision": "f32",
    "validation__source": "synthetic:1",
    "validation__images": 2,
    "validation__every": 4,
    "validation__sampling_steps": 2,
}

DATA = {
    "folder": "",  # of photographs, instead of a source
    "crop": 128,  # pixels
    "batch": 16,  # images, over all devices
    "recipe": "codeformer",  # the degradation; "" for tasks that see only clean images
    "cache": True,  # keep decoded photographs of a folder or list in memory, 3 bytes a pixel
    "scale": (0.5, 1.0),  # photographs are resized by a factor drawn here before the crop; (): the crop keeps 0.7 to 1
    "source": "",  # photographs: a folder, a list, shards, tfds:NAME, synthetic; see data.sources.open_source
    "crop_mode": "random",  # or centre, the largest square, or none, for photographs of the crop's size
    "recipe_overrides": {},  # fields of the degradation and their values
    "workers": 0,  # processes that make batches; 0: a thread of this one
    "prefetch": 4,  # batches held ready, in each process
}
OPTIMIZER = {
    "learning_rate": 1e-4,
    "warmup": 100,  # updates
    "schedule": "cosine",  # or step or constant, after the warm-up
    "final": 0.01,  # of the peak, at the cosine's end
    "drops": (),  # of schedule step: pairs of an update and the factor that the rate is multiplied by
    "b1": 0.9,
    "b2": 0.99,
    "weight_decay": 0.0,
    "clip": 1.0,  # largest global norm of the gradient
    "ema": 0.999,  # the average that is evaluated and kept; 0: none
    "accumulate": 1,  # parts in which a device takes its share of the batch
    "sharded": False,  # share the optimizer's state out over the devices (ZeRO, stage 1)
}
GUARD = {
    "sigma": 10.0,  # a loss so many standard deviations above its running mean skips the update, as one not finite does; 0: off
    "patience": 20,  # skips in a row that end the run
}
VALIDATION = {
    "source": "",  # photographs, of any kind that data.source takes
    "images": 0,  # of the fixed set; 0: no validation
    "every": 1000,
    "sampling_steps": 50,
}
IMAGE_LOSS = {  # weights of the losses on the decoded clean estimate, see `AdversarialStage2`; all 0: the diffusion loss alone
    "pixel": 0.0,
    "perceptual": 0.0,
    "adversarial": 0.0,
    "decoder": False,  # the autoencoder's decoder learns along, from these losses
    "strength": 0.25,  # how far stage 1's latent is diffused at most
}
SAMPLING = {"parameterisation": "v", "zero_snr": False, "short_edge": 256, "multiple": 64, "padding": "edge", "guidance_side": 256}

TINY_DATA = {  # of the embedded model's networks that see damage: of both kinds, and a third as mild as most photographs have it
    "data__recipe": "codeformer+realesrgan+face",
    "data__recipe_overrides": {
        "face": {"blur": {"sigma": (0.1, 3.0)}, "downsample": (1.0, 4.0), "noise": (0.0, 10.0), "quality": (50, 95)}
    },
}


def recipe(task: str, network: dict[str, Any], **changes: Any) -> ConfigDict:
    """A recipe: the defaults, with `changes` given as "group__key" or "key".

    Args:
        task: one of TASKS.
        network: kind and sizes of the trained network, as in `model.json`; {} for stage 2, whose sizes are the prior's.
    """
    config = ConfigDict(
        {
            "task": task,
            "seed": 0,
            "steps": 1000,  # optimizer updates in all
            "network": network,
            "model_folder": "workdir/tiny",  # frozen networks are read here, the trained one is written here
            "output_folder": "",  # or here
            "random_networks": {},  # name -> kind and sizes: frozen networks drawn at random instead, to try a recipe out
            "start_from": "",  # a model folder whose network of this task is trained on, instead of a new one
            "data": DATA,
            "optimizer": OPTIMIZER,
            "guard": GUARD,
            "validation": VALIDATION,
            "precision": "f32",  # of the computation, or bf16; trained weights and moments are float32
            "frozen_precision": "f32",  # of the frozen networks' weights, or bf16
            "remat": False,  # compute the UNet's and control branch's blocks again in the backward pass
            "conv_implementation": "xla",  # or cpu, faster there, or auto, which chooses by the device
            "attention_implementation": "auto",  # best for the device, or one of models/attention.py: of UNet and branch
            "log_every": 20,
            "checkpoint_every": 200,
            "keep": 2,  # newest checkpoints
            "keep_every": 0,  # steps: keep these checkpoints for good; 0: none
            **_of_task(task),
        }
    )
    with config.unlocked():
        for key, value in changes.items():
            config.update_from_flattened_dict({key.replace("__", "."): value})
    config.lock().network.unlock()  # a network's other sizes may be added
    config.data.recipe_overrides.unlock()
    config.random_networks.unlock()
    if task in ("prior", "stage2"):
        config.sampling.unlock()
        config.defaults.unlock()
    return config


def _of_task(task: str) -> dict[str, Any]:
    """The keys that only some tasks have."""
    own = {
        "autoencoder": {"kl_weight": 1e-4},
        "stage1": {"relative_loss": False},  # divide an image's error by its input's
        "prior": {"sampling": SAMPLING},  # copied into model.json: how restorations are made with this prior
        "stage2": {
            "sampling": {},  # what is to differ from the prior's, for example the parameterisation
            "branch": "LAControlNet",  # or ControlNet, which sees the restored image through an encoder of its own
            "trained": "all",  # or added: the layers that the UNet has not, and the first convolution
            "restoration": True,  # False: the condition is the degraded image
            "control_dropped": 0.0,  # above 0 the prior learns along, and this share of the images is seen without control
            "captions_dropped": 1.0,  # share of the images that get the empty prompt
            "noise_augmentation": 0,  # the condition is diffused to a step drawn below this
            "low_steps": 0.0,  # share of the steps drawn from the first quarter, where a restoration from the condition begins
            "image_loss": IMAGE_LOSS,
        },
    }[task]
    if task in ("prior", "stage2"):
        own |= {
            "noises": 1,  # times that a batch's images are used, each with a step and noise of their own
            "defaults": {},  # copied into model.json: the options of a restoration that the model prefers
        }
    return own


def has_image_loss(config: ConfigDict) -> bool:
    """Whether stage 2 is trained on decoded estimates too."""
    return config.task == "stage2" and any(config.image_loss[key] for key in ("pixel", "perceptual", "adversarial"))


_PAPER = {  # of every full-size recipe (DiffBIR v1, section 4.1): 512 pixels, AdamW at a constant rate
    "data__crop": 512,
    "data__scale": (),
    "data__cache": False,
    "data__workers": 8,
    "optimizer__schedule": "constant",
    "optimizer__warmup": 0,
    "optimizer__b2": 0.999,
    "optimizer__ema": 0.0,
    "precision": "bf16",
    "log_every": 50,
    "checkpoint_every": 1000,
    "keep_every": 10_000,
    "validation__every": 1000,
}


V21 = {  # of version 2.1, for `paper_stage2`: the original's configuration
    "data__batch": 512,
    "data__crop_mode": "none",
    "data__recipe": "realesrgan",
    "steps": 1_000_000,
    "sampling": {"parameterisation": "v", "zero_snr": True},
    "optimizer__learning_rate": 1e-5,
}


def paper_stage1(size: str, **changes: Any) -> ConfigDict:
    """Stage 1 as the paper trains it (section 4.1: batch 96, 150 000 steps); "smoke": the same on toy networks."""
    full = _PAPER | {"data__batch": 96, "data__crop_mode": "centre", "steps": 150_000} | changes
    return recipe("stage1", TOY_SWINIR, **full | TOY) if size == "smoke" else recipe("stage1", {"kind": "SwinIR"}, **full)


def paper_stage2(size: str, **changes: Any) -> ConfigDict:
    """Stage 2 as the paper trains it (section 4.1: batch 192, 25 000 steps); "smoke": the same on toy networks."""
    memory = {"frozen_precision": "bf16", "remat": True, "optimizer__weight_decay": 0.01}
    full = _PAPER | memory | {"data__batch": 192, "steps": 25_000, "model_folder": "workdir/prior"} | changes
    if size != "smoke":
        return recipe("stage2", {}, **full)
    return recipe("stage2", {}, **full | TOY | {"random_networks": TOY_NETWORKS, "model_folder": "workdir/smoke"})


def read_config(argument: str, overrides: list[str]) -> ConfigDict:
    """The recipe of a recipe `FILE.py` or `FILE.py:size`, with "--config.KEY=VALUE" applied.

    Raises:
        InputError: no such file or size, an unknown key, a value of another type.
    """
    path, _, size = argument.partition(":")
    if not Path(path).is_file():
        raise InputError(f"there is no recipe {path}; give a file, for example configs/tiny_stage1.py")
    if size not in ("", "full", "smoke"):
        raise InputError(f"{argument} names the size {size!r}; give {path} or {path}:smoke")
    get_config = runpy.run_path(path).get("get_config")
    if get_config is None:
        raise InputError(f"{path} has no get_config(); give a recipe, for example configs/tiny_stage1.py")
    config = get_config(size) if size else get_config()
    for override in overrides:
        _apply(config, override)
    return config


def _apply(config: ConfigDict, override: str) -> None:
    if not override.startswith(PREFIX) or "=" not in override:
        raise InputError(f"{override} was not understood; the flags are those of --help and {PREFIX}KEY=VALUE")
    key, _, text = override.removeprefix(PREFIX).partition("=")
    *groups, name = key.split(".")
    try:
        group, value = functools.reduce(getattr, groups, config), _value(text)
        if key == "task":
            raise ValueError("another task is another recipe")
        if isinstance(old := group.get(name), ConfigDict) and old.is_locked:
            raise ValueError(f"give its keys, {override.partition('=')[0]}.KEY=VALUE")
        if value is None and group.is_locked:
            raise ValueError("it takes a value")
        group[name] = value
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).strip("'\"").split()).partition(" and cannot be added")[0]
        raise InputError(f"{override} does not fit the recipe: {reason}") from None


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
