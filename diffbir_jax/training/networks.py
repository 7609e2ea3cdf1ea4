"""The networks of a training run: those read, the one trained, and how each is computed."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict
from numpy.typing import DTypeLike

from diffbir_jax.diffusion.schedule import SCALED_LINEAR, ZERO_SNR, Schedule
from diffbir_jax.errors import InputError
from diffbir_jax.home import home
from diffbir_jax.metrics.vgg import read_vgg, vgg_shapes
from diffbir_jax.models.attention import best_implementation
from diffbir_jax.models.control import ControlNet, LAControlNet, control_from_unet
from diffbir_jax.models.unet import UNet, UNetEncoder
from diffbir_jax.options import PRECISIONS
from diffbir_jax.packages import Archives
from diffbir_jax.training import objectives
from diffbir_jax.training.adversarial import AdversarialStage2, Discriminator
from diffbir_jax.training.config import TASKS, has_image_loss
from diffbir_jax.training.remat import rematted
from diffbir_jax.training.steps import Objective, make_step
from diffbir_jax.training.text import Contexts
from diffbir_jax.types import Params
from diffbir_jax.weights.folder import load_network, network, read_card
from diffbir_jax.weights.registry import PRESETS

FROZEN = {"autoencoder": (), "prior": ("autoencoder",), "stage1": (), "stage2": ("unet", "autoencoder", "stage1")}
RELEASED = {"unet": {"kind": "UNet"}, "autoencoder": {"kind": "AutoencoderKL"}, "stage1": {"kind": "SwinIR"}}


class Setup(NamedTuple):
    """What a run computes with.

    Attributes:
        nets: name -> module, the trained one among them; as the step computes them.
        params: what is trained. Of stage 2 {"control": …} and, where the prior learns along, {"unet": …}.
        frozen: name -> parameters, or the rest of them; and "empty", the empty prompt's context.
        sampling: of a prior, see `Model.sampling`; {} without one.
    """

    nets: dict[str, nn.Module]
    params: Params
    frozen: dict[str, Any]
    sampling: dict[str, Any]

    @property
    def schedule(self) -> Schedule:
        return ZERO_SNR if self.sampling["zero_snr"] else SCALED_LINEAR


def load_setup(config: ConfigDict) -> Setup:
    """The networks of a run, parameters in memory.

    Raises:
        InputError: a network is missing, or of sizes that do not go together.
    """
    if config.task == "stage2" and not config.random_networks and "sampling" not in read_card(Path(config.model_folder)):
        raise InputError(
            f"{config.model_folder}/model.json does not say how its prior is sampled; convert or train the prior first"
        )
    load = partial(load_frozen, config)
    contexts = lambda unet: make_contexts(config, np.float32)([""])  # noqa: E731
    return _setup(config, load, _start, contexts, lambda: read_vgg(Archives(home() / "metrics")))


def load_frozen(config: ConfigDict, name: str, dtype: DTypeLike = np.float32) -> tuple[nn.Module, Params]:
    """A network that is not trained, from the model folder or, if the recipe says so, drawn at random."""
    if not config.random_networks:
        return load_network(Path(config.model_folder), name, dtype)
    net, rng = network(config.random_networks.to_dict()[name]), np.random.default_rng(config.seed)
    return net, jax.tree.map(lambda x: (0.1 * rng.standard_normal(x.shape, np.float32)).astype(dtype), _shapes(net))


def make_contexts(config: ConfigDict, dtype: DTypeLike = ml_dtypes.bfloat16) -> Contexts:
    """The text tower, its weights stored as `dtype`."""
    return Contexts(*load_frozen(config, "text_encoder", dtype))


def abstract_setup(config: ConfigDict) -> Setup:
    """As `load_setup` with shapes for parameters; where there is no model folder, the released networks' shapes."""
    described = _described(config)

    def load(name: str) -> tuple[nn.Module, Params]:
        if name not in described:
            raise InputError(f"{config.model_folder} holds no {name!r} network; it holds {', '.join(sorted(described))}")
        net = network(described[name])
        return net, _shapes(net)

    contexts = lambda unet: jax.ShapeDtypeStruct((1, 77, unet.context_dim), jnp.float32)  # noqa: E731
    return _setup(config, load, lambda net, unet, seed: _shapes(net), contexts, vgg_shapes)


def _described(config: ConfigDict) -> dict[str, Any]:
    """The frozen networks' kinds and sizes."""
    if config.random_networks:
        return config.random_networks.to_dict()
    folder = Path(config.model_folder)
    return read_card(folder)["networks"] if (folder / "model.json").exists() else RELEASED


def _sampling(config: ConfigDict) -> dict[str, Any]:
    """How the model is sampled: the prior's way, changed where the recipe says."""
    own, folder = config.to_dict().get("sampling", {}), Path(config.model_folder)
    if config.task != "stage2":
        return own
    there = not config.random_networks and (folder / "model.json").exists()
    return (read_card(folder) if there else {}).get("sampling", PRESETS["v1-general"].sampling) | own


def _setup(config: ConfigDict, load: Callable, start: Callable, contexts: Callable, vgg: Callable) -> Setup:
    names = [n for n in FROZEN[config.task] if n != "stage1" or config.restoration]
    loaded = {name: load(name) for name in names}
    nets, params = ({name: pair[i] for name, pair in loaded.items()} for i in (0, 1))
    name = TASKS[config.task]
    nets[name] = _trained_net(config, nets)
    if config.start_from:
        nets[name], params[name] = load_network(Path(config.start_from), name, np.float32)
    else:
        try:
            params[name] = start(nets[name], params.get("unet"), config.seed)
        except (TypeError, ValueError, IndexError) as error:
            raise InputError(f"the sizes in network do not go together: {str(error).partition('.')[0]}") from None
    _check_fit(config, nets)
    trained, frozen = _share_out(config, name, params)
    if config.task == "stage2" and config.image_loss.adversarial:
        nets["discriminator"] = Discriminator()
        trained["discriminator"] = start(nets["discriminator"], None, config.seed)
    if config.task == "stage2" and config.image_loss.perceptual:
        try:
            frozen["vgg"] = vgg()
        except InputError as error:
            raise InputError(f"image_loss.perceptual: {error}; --config.image_loss.perceptual=0.0 goes without") from None
    if name == "control" and nets["unet"].context_dim:
        frozen["empty"] = contexts(nets["unet"])
    return Setup({n: as_computed(net, config) for n, net in nets.items()}, trained, frozen, _sampling(config))


def _trained_net(config: ConfigDict, nets: dict[str, nn.Module]) -> nn.Module:
    if config.task != "stage2":
        return network(config.network.to_dict())
    unet = nets["unet"]
    fields = {f: getattr(unet, f) for f in UNetEncoder.__dataclass_fields__ if f not in ("parent", "name")}
    if config.branch == "LAControlNet":
        return LAControlNet(**fields, cond_channels=unet.in_channels)
    halvings = len(nets["autoencoder"].channels)
    return ControlNet(**fields, cond_channels=(16, 32, 96, 256)[:halvings])


def _start(net: nn.Module, unet: Params | None, seed: int) -> Params:
    """New parameters; a control branch's are the UNet's."""
    key = jax.random.key(seed)
    if unet is not None:
        return control_from_unet(unet, net, key)
    inputs = [x if x is None else jnp.zeros(x.shape, x.dtype) for x in net.example_inputs()]
    return jax.jit(lambda key: net.init(key, *inputs))(key)["params"]


def _shapes(net: nn.Module) -> Params:
    return jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]


def _share_out(config: ConfigDict, name: str, params: dict[str, Any]) -> tuple[Params, dict[str, Any]]:
    """What is trained, and what is frozen."""
    frozen = dict(params)
    tree = frozen.pop(name)
    if name != "control":
        return tree, frozen
    if config.trained == "added":
        added = {k for k in tree if k.startswith("controlnet_") or k == "conv_in"}
        frozen[name] = {k: v for k, v in tree.items() if k not in added}
        tree = {k: tree[k] for k in added}
    along = {"unet": frozen.pop("unet")} if config.control_dropped else {}
    if config.image_loss.decoder:
        whole = frozen["autoencoder"]
        along["autoencoder"] = {k: v for k, v in whole.items() if k.startswith(("decoder", "post_quant"))}
        frozen["autoencoder"] = {k: v for k, v in whole.items() if k not in along["autoencoder"]}
    return {name: tree, **along}, frozen


def _check_fit(config: ConfigDict, nets: dict[str, nn.Module]) -> None:
    """Sizes that do not go together, by the keys that set them."""
    multiple, unet, autoencoder = 1, nets.get("unet"), nets.get("autoencoder")
    if autoencoder is not None:
        multiple = autoencoder.downsampling_factor
    if unet is not None:
        multiple *= 2 ** (len(unet.channels) - 1)
        if unet.in_channels != autoencoder.latent_channels:
            raise InputError(
                f"the UNet takes latents of {unet.in_channels} channels and the autoencoder makes {autoencoder.latent_channels}; "
                "give networks that go together"
            )
    stage1 = nets.get("stage1")
    if stage1 is not None and hasattr(stage1, "unshuffle"):
        multiple = int(np.lcm(multiple, stage1.unshuffle * stage1.window))
    elif stage1 is not None and type(stage1).__name__ == "RRDBNet":
        raise InputError("stage 1 is an RRDBNet, which enlarges its input; train stage 2 on a SwinIR or SCUNet")
    if config.data.crop % multiple:
        raise InputError(f"data.crop is {config.data.crop}; give a multiple of {multiple}, for example {4 * multiple}")


def as_computed(net: nn.Module, config: ConfigDict) -> nn.Module:
    """The network at the recipe's precision, by its implementations; a UNet or branch with remat if asked."""
    net = net.clone(dtype=jnp.dtype(PRECISIONS[config.precision]))
    if hasattr(net, "conv_implementation"):
        by_device = "cpu" if jax.devices()[0].platform == "cpu" else "xla"
        net = net.clone(conv_implementation=by_device if config.conv_implementation == "auto" else config.conv_implementation)
    if not isinstance(net, UNetEncoder):
        return net
    attention = config.attention_implementation
    attention = best_implementation(jax.devices()[0], net.dtype) if attention == "auto" else attention
    net = net.clone(attention_implementation=attention)
    return rematted(net) if config.remat else net


def as_stored(net: nn.Module) -> nn.Module:
    """The network as a model folder names it."""
    kind = next((k for k in (UNet, LAControlNet, ControlNet) if isinstance(net, k)), type(net))
    return kind(**{f: getattr(net, f) for f in net.__dataclass_fields__ if f not in ("parent", "name")})


def make_objective(config: ConfigDict, setup: Setup) -> Objective:
    """What the run minimises."""
    nets = setup.nets
    if config.task == "autoencoder":
        return objectives.autoencoder_objective(nets["autoencoder"], config.kl_weight)
    if config.task == "stage1":
        return objectives.stage1_objective(nets["stage1"], config.relative_loss)
    diffusion = (setup.schedule, setup.sampling["parameterisation"])
    if config.task == "prior":
        return objectives.prior_objective(nets["unet"], nets["autoencoder"], *diffusion, config.noises)
    options = ("noises", "control_dropped", "captions_dropped", "noise_augmentation", "low_steps")
    given = {key: config[key] for key in options}
    if has_image_loss(config):
        losses = {key: value for key, value in config.image_loss.items() if key != "decoder"}
        return AdversarialStage2(nets, *diffusion, **given, **losses)
    return objectives.Stage2(nets, *diffusion, **given)


def training_step(config: ConfigDict, objective: Objective, optimizer: optax.GradientTransformation, mesh: Mesh) -> Callable:
    """The recipe's step, see `make_step`."""
    options = config.optimizer
    return make_step(
        objective,
        optimizer,
        mesh,
        ema=options.ema,
        clip=options.clip,
        accumulate=options.accumulate,
        sharded=options.sharded,
        sigma=config.guard.sigma,
    )


def description(config: ConfigDict) -> dict[str, Any]:
    """The recipe as plain data, as a checkpoint keeps it."""
    return json.loads(config.to_json())
