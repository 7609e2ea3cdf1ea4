"""The trained network into a model folder."""

from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from diffbir_jax.models.autoencoder import balance
from diffbir_jax.training.config import TASKS
from diffbir_jax.training.networks import Setup, as_stored
from diffbir_jax.training.objectives import merge
from diffbir_jax.weights.folder import read_card, save_network, write_card


def export(config: ConfigDict, setup: Setup, params: Any, sample: jax.Array | None) -> None:
    """Writes `params`, and how the model is sampled, to the recipe's output folder, in the first process.

    An autoencoder's scaling makes the latents of `sample` of deviation 1.

    Raises:
        InputError: the folder cannot be written.
    """
    if jax.process_index():
        return
    folder, name, params = Path(config.output_folder or config.model_folder), TASKS[config.task], jax.device_get(params)
    net = as_stored(setup.nets[name])
    if config.task == "autoencoder" and net.shortcut:
        params, net = balance(net, params, sample), net.clone(scaling_factor=1.0)
    elif config.task == "autoencoder":
        mean, _ = net.apply({"params": params}, sample, method="moments")
        net = net.clone(scaling_factor=round(1 / float(mean.std()), 5))
    if config.task == "stage2":
        whole = merge({n: jax.device_get(setup.frozen[n]) for n in params if n in setup.frozen}, params)
        for along in {"unet", "autoencoder"} & set(params):
            save_network(folder, along, as_stored(setup.nets[along]), whole[along])
        params = whole[name]
    save_network(folder, name, net, params)
    if config.task in ("prior", "stage2"):
        defaults = {"defaults": config.defaults.to_dict()} if config.task == "prior" or config.defaults else {}
        card = read_card(folder) | {"sampling": setup.sampling} | defaults
        if config.task == "stage2":
            card["restoration"] = config.restoration
        write_card(folder, card)
