"""The keys of a recipe, their defaults and their checks."""

from typing import Any

from ml_collections import ConfigDict

from diffbir_jax.errors import InputError

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
                "folder": "",
                "crop": 128,  # pixels
                "batch": 16,  # images, over all devices
                "recipe": "codeformer",  # the degradation; "" for tasks that see only clean images
                "cache": True,  # keep decoded photographs in memory, 3 bytes a pixel
                "scale": (0.5, 1.0),  # photographs are resized by a factor drawn here before the crop
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
            "log_every": 20,
            "checkpoint_every": 200,
        }
    )
    if task == "autoencoder":
        config.kl_weight = 1e-4
    if task == "stage1":
        config.relative_loss = False  # divide an image's error by its input's
    if task == "prior":
        sampling = {"parameterisation": "v", "zero_snr": False, "short_edge": 256, "multiple": 64, "padding": "edge"}
        config.sampling = ConfigDict(sampling)  # copied into model.json: how restorations are made with this prior
    with config.unlocked():
        for key, value in changes.items():
            config.update_from_flattened_dict({key.replace("__", "."): value})
    config.lock().network.unlock()  # a network's other sizes may be added
    return config


def check(config: ConfigDict) -> None:
    """Refuses impossible values before anything is compiled.

    Raises:
        InputError: names the key, what was given and what is accepted.
    """
    if config.task not in TASKS:
        raise InputError(f"task is {config.task!r}; give one of {', '.join(TASKS)}")
    positive = ("steps", "log_every", "checkpoint_every", "data.crop", "data.batch", "optimizer.learning_rate", "optimizer.clip")
    flat = {"data." + k: v for k, v in config.data.items()} | {"optimizer." + k: v for k, v in config.optimizer.items()}
    flat |= {k: config[k] for k in ("steps", "log_every", "checkpoint_every")}
    for key in positive:
        if flat[key] <= 0:
            raise InputError(f"{key} is {flat[key]}; give a number above 0")
    if not 0 <= config.optimizer.ema < 1:
        raise InputError(f"optimizer.ema is {config.optimizer.ema}; give 0 to below 1, for example 0.999")
    low, high = config.data.scale
    if not 0 < low <= high <= 1:
        raise InputError(f"data.scale is {config.data.scale}; give two factors 0 < low <= high <= 1")
    if not config.data.folder:
        raise InputError("no photographs given; add --config.data.folder=FOLDER")
