"""The keys of a recipe, their defaults and their checks."""

from typing import Any

from ml_collections import ConfigDict

from diffbir_jax.errors import InputError
from diffbir_jax.models.conv import IMPLEMENTATIONS

TASKS = {"autoencoder": "autoencoder", "prior": "unet", "stage1": "stage1", "stage2": "control"}  # task -> the network it trains


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
            "start_from": "",  # a model folder whose network of this task is trained on, instead of a new one
            "data": {
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
            },
            "optimizer": {
                "learning_rate": 1e-4,
                "warmup": 100,
                "final": 0.01,
                "b1": 0.9,
                "b2": 0.99,
                "weight_decay": 0.0,
                "clip": 1.0,
                "ema": 0.999,
            },
            "conv_implementation": "xla",  # or winograd, faster on CPUs: of the UNet and its control branch
            "log_every": 20,
            "checkpoint_every": 200,
        }
    )
    if task == "autoencoder":
        config.kl_weight = 1e-4
    if task == "stage1":
        config.relative_loss = False  # divide an image's error by its input's
    if task in ("prior", "stage2"):
        config.noises = 1  # times that a batch's images are used, each with a step and noise of their own
    if task == "stage2":
        config.control_dropped = 0.0  # above 0 the prior learns along, and this share of the images is seen without control
    if task == "prior":
        sampling = {"parameterisation": "v", "zero_snr": False, "short_edge": 256, "multiple": 64, "padding": "edge"}
        config.sampling = ConfigDict(sampling)  # copied into model.json: how restorations are made with this prior
        config.defaults = ConfigDict()  # and this: the options of a restoration that the model prefers
    with config.unlocked():
        for key, value in changes.items():
            config.update_from_flattened_dict({key.replace("__", "."): value})
    config.lock().network.unlock()  # a network's other sizes may be added
    config.data.recipe_overrides.unlock()
    if task == "prior":
        config.defaults.unlock()
    return config


def check(config: ConfigDict) -> None:
    """Refuses impossible values before anything is compiled.

    Raises:
        InputError: names the key, what was given and what is accepted.
    """
    if config.task not in TASKS:
        raise InputError(f"task is {config.task!r}; give one of {', '.join(TASKS)}")
    positive = ("steps", "log_every", "checkpoint_every", "optimizer.learning_rate", "optimizer.clip")
    positive += ("data.crop", "data.batch", "data.prefetch")
    flat = {"data." + k: v for k, v in config.data.items()} | {"optimizer." + k: v for k, v in config.optimizer.items()}
    flat |= {k: config[k] for k in ("steps", "log_every", "checkpoint_every")}
    for key in positive:
        if flat[key] <= 0:
            raise InputError(f"{key} is {flat[key]}; give a number above 0")
    if not 0 <= config.optimizer.ema < 1:
        raise InputError(f"optimizer.ema is {config.optimizer.ema}; give 0 to below 1, for example 0.999")
    if config.get("noises", 1) < 1:
        raise InputError(f"noises is {config.noises}; give 1 or more")
    if not 0 <= config.get("control_dropped", 0) < 1:
        raise InputError(f"control_dropped is {config.control_dropped}; give 0 to below 1, for example 0.3")
    if config.conv_implementation not in IMPLEMENTATIONS:
        raise InputError(f"conv_implementation is {config.conv_implementation!r}; give one of {', '.join(IMPLEMENTATIONS)}")
    _check_data(config.data)


def _check_data(data: ConfigDict) -> None:
    if data.scale and not (len(data.scale) == 2 and 0 < data.scale[0] <= data.scale[1] <= 1):
        raise InputError(
            f"data.scale is {data.scale}; give two factors 0 < low <= high <= 1, or () to keep 0.7 to 1 of the shorter side"
        )
    if data.workers < 0:
        raise InputError(f"data.workers is {data.workers}; give 0 or more")
    if data.recipe_overrides and not data.recipe:
        raise InputError("data.recipe_overrides has no recipe to change; give data.recipe too")
    if not (data.source or data.folder):
        raise InputError("no photographs given; add --config.data.folder=FOLDER or --config.data.source=SOURCE")
    if data.source and data.folder:
        raise InputError(f"data.source is {data.source} and data.folder is {data.folder}; give one of them")
