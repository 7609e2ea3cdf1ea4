"""A training run, in the order of events."""

import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter

from diffbir_jax.data.pipeline import training_batches
from diffbir_jax.data.sources import open_source
from diffbir_jax.degradation.recipes import find_recipe
from diffbir_jax.diffusion.schedule import SCALED_LINEAR, ZERO_SNR
from diffbir_jax.errors import InputError
from diffbir_jax.models.autoencoder import balance, fit_shortcut
from diffbir_jax.models.control import LAControlNet, control_from_unet
from diffbir_jax.models.unet import UNetEncoder
from diffbir_jax.training import steps
from diffbir_jax.training.checkpoints import Checkpoints
from diffbir_jax.training.config import TASKS, check
from diffbir_jax.training.state import init_state, make_optimizer
from diffbir_jax.weights.folder import load_network, network, read_card, save_network, write_card

SAMPLE_BATCHES = 32
FROZEN = {"autoencoder": (), "prior": ("autoencoder",), "stage1": (), "stage2": ("unet", "autoencoder", "stage1")}


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains one network until `config.steps`, going on from the newest checkpoint in `workdir`, and writes it to the model folder.

    Raises:
        InputError: an impossible configuration, missing photographs or frozen networks, or a loss that is not finite.
    """
    check(config)
    mesh = Mesh(jax.devices(), ("data",))
    if config.data.batch % mesh.size:
        raise InputError(f"data.batch is {config.data.batch}; give a multiple of the {mesh.size} devices")
    batches = iter(_batches(config))
    folder = Path(config.model_folder)
    frozen = {name: _with_conv(config, *load_network(folder, name, np.float32)) for name in FROZEN[config.task]}
    net, params = _with_conv(config, *_trained(config, frozen))
    modules = {name: module for name, (module, _) in frozen.items()}
    if config.get("control_dropped"):
        params = {"control": params, "unet": frozen.pop("unet")[1]}
    sample = None
    if config.task == "autoencoder":
        sample = jnp.concatenate([batch["hq"] for batch, _ in zip(_batches(config), range(SAMPLE_BATCHES), strict=False)])
        params = params if config.start_from or not net.shortcut else fit_shortcut(net, params, sample)
    sampling = read_card(folder)["sampling"] if config.task == "stage2" else config.to_dict().get("sampling")
    objective = _objective(config, net, modules, sampling)
    optimizer = make_optimizer(config.optimizer, config.steps)
    step = steps.make_step(objective, optimizer, config.optimizer.ema, mesh)

    everywhere, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    state = jax.device_put(init_state(params, optimizer), everywhere)
    frozen_params = jax.device_put({name: tree for name, (_, tree) in frozen.items()}, everywhere)
    checkpoints = Checkpoints(workdir, json.loads(config.to_json()))
    if restored := checkpoints.restore(state):
        state, position = restored
        batches.set_state(position)
        print(f"continuing after step {int(state.step)}", flush=True)
    count = sum(x.size for x in jax.tree.leaves(params))
    print(f"{config.task}: {count / 1e6:.2f} M parameters on {mesh.size} {jax.devices()[0].platform} device(s)", flush=True)

    key, report = jax.random.key(config.seed), Report(config, Path(workdir), int(state.step))
    for number in range(int(state.step) + 1, config.steps + 1):
        batch = _to_devices(next(batches), split)
        state, metrics = step(state, frozen_params, batch, key)
        report.add(number, metrics)
        if number % config.checkpoint_every == 0 or number == config.steps:
            checkpoints.save(state, batches.get_state())
            export(config, net, modules, state.ema, sample)
    report.close()
    checkpoints.close()


def _batches(config: ConfigDict):
    """This process's share of every batch."""
    data = config.data
    return training_batches(
        open_source(data.source or f"folder:{data.folder}", data.cache),
        batch_size=data.batch // jax.process_count(),
        crop_size=data.crop,
        recipe=find_recipe(data.recipe, data.recipe_overrides.to_dict()) if data.recipe else None,
        crop_mode=data.crop_mode,
        crops_scale=tuple(data.scale) or None,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_workers=data.workers,
        prefetch=data.prefetch,
    )


def _to_devices(batch: dict[str, np.ndarray], split: NamedSharding) -> dict[str, jax.Array]:
    """The images of a batch; prompts are no arrays of numbers."""
    return {name: jax.make_array_from_process_local_data(split, batch[name]) for name in ("hq", "lq") if name in batch}


def _with_conv(config: ConfigDict, net: nn.Module, params: Any) -> tuple[nn.Module, Any]:
    return net.clone(conv_implementation=config.conv_implementation) if isinstance(net, UNetEncoder) else net, params


def _trained(config: ConfigDict, frozen: dict[str, tuple[nn.Module, Any]]) -> tuple[nn.Module, Any]:
    """The network to train and its first parameters."""
    if config.start_from:
        return load_network(Path(config.start_from), TASKS[config.task], np.float32)
    if config.task == "stage2":
        unet, params = frozen["unet"]
        net = LAControlNet(**{f: getattr(unet, f) for f in UNetEncoder.__dataclass_fields__ if f not in ("parent", "name")})
        net = net.clone(cond_channels=unet.in_channels)
        return net, control_from_unet(params, net)
    net = network(config.network.to_dict())
    image = jnp.zeros((1, config.data.crop, config.data.crop, 3))
    inputs = (image,)
    if config.task == "prior":
        autoencoder, params = frozen["autoencoder"]
        latent = jax.eval_shape(lambda: autoencoder.apply({"params": params}, image, method="encode"))
        inputs = (jnp.zeros(latent.shape), jnp.zeros(1, jnp.int32), None)
    return net, jax.jit(lambda key: net.init(key, *inputs))(jax.random.key(config.seed))["params"]


def _objective(config: ConfigDict, net: nn.Module, frozen: dict[str, nn.Module], sampling: dict | None) -> steps.Objective:
    if config.task == "autoencoder":
        return steps.autoencoder_objective(net, config.kl_weight)
    if config.task == "stage1":
        return steps.stage1_objective(net, config.relative_loss)
    diffusion = (ZERO_SNR if sampling["zero_snr"] else SCALED_LINEAR, sampling["parameterisation"])
    if config.task == "prior":
        return steps.prior_objective(net, frozen["autoencoder"], *diffusion, config.noises)
    return steps.stage2_objective(
        net,
        frozen["unet"],
        frozen["autoencoder"],
        frozen["stage1"],
        *diffusion,
        config.noises,
        config.control_dropped,
    )


def export(config: ConfigDict, net: nn.Module, others: dict[str, nn.Module], params: Any, sample: jax.Array | None) -> None:
    """Writes the averaged parameters to the model folder; an autoencoder's scaling makes the latents of `sample` of deviation 1."""
    folder = Path(config.model_folder)
    if config.get("control_dropped"):
        save_network(folder, "unet", others["unet"], jax.device_get(params["unet"]))
        params = params["control"]
    if config.task == "autoencoder" and net.shortcut:
        params, net = balance(net, params, sample), net.clone(scaling_factor=1.0)
    elif config.task == "autoencoder":
        mean, _ = net.apply({"params": params}, sample, method="moments")
        net = net.clone(scaling_factor=round(1 / float(mean.std()), 5))
    save_network(folder, TASKS[config.task], net, jax.device_get(params))
    if config.task == "prior":
        write_card(folder, read_card(folder) | {name: config[name].to_dict() for name in ("sampling", "defaults")})


class Report:
    """Means of the metrics to the console, with rate and time left, and to TensorBoard files in the work folder."""

    def __init__(self, config: ConfigDict, workdir: Path, start: int):
        self.config, self.last, self.begun = config, start, time.perf_counter()
        self.writer = SummaryWriter(str(workdir / "tensorboard"))
        self.pending: list[dict[str, jax.Array]] = []

    def add(self, number: int, metrics: dict[str, jax.Array]) -> None:
        self.pending.append(metrics)
        if number % self.config.log_every and number != self.config.steps:
            return
        means = {k: float(np.mean([m[k] for m in jax.device_get(self.pending)])) for k in metrics}
        self.pending.clear()
        now = time.perf_counter()
        seconds = (now - self.begun) / (number - self.last)
        self.begun, self.last = now, number
        left = time.strftime("%H:%M:%S", time.gmtime(seconds * (self.config.steps - number)))
        text = "  ".join(f"{k} {v:.4g}" for k, v in means.items())
        print(
            f"step {number}/{self.config.steps}  {text}  {self.config.data.batch / seconds:.1f} images/s  {left} left", flush=True
        )
        for name, value in means.items():
            self.writer.add_scalar(name, value, number)
        if not np.isfinite(means["loss"]):
            raise InputError(
                f"the loss is {means['loss']} at step {number}; lower optimizer.learning_rate and start again from a checkpoint"
            )

    def close(self) -> None:
        self.writer.close()
