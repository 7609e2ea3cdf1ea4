"""What a recipe costs, told without running it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from diffbir_jax.errors import InputError
from diffbir_jax.options import PRECISIONS
from diffbir_jax.training.networks import Setup, abstract_setup, as_stored, make_objective
from diffbir_jax.training.state import init_state, make_optimizer

PRIME = 13  # images: what of the backward pass has a size that is a multiple is theirs, no network has such sizes


def size(tree: Any) -> int:
    """Numbers in a tree of arrays or shapes."""
    return sum(x.size for x in jax.tree.leaves(tree))


def stored(tree: Any) -> int:
    """Bytes of a tree of arrays or shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def example_batch(config: ConfigDict, setup: Setup, images: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch of `images`."""
    image = jax.ShapeDtypeStruct((images, config.data.crop, config.data.crop, 3), jnp.float32)
    batch = {"hq": image, "index": jax.ShapeDtypeStruct((images,), jnp.int32)}
    batch |= {"lq": image} if config.data.recipe else {}
    if "empty" in setup.frozen and config.captions_dropped < 1:
        batch["context"] = jax.ShapeDtypeStruct((images, *setup.frozen["empty"].shape[1:]), jnp.float32)
    return batch


def keys_of(images: int) -> jax.ShapeDtypeStruct:
    """The shape of an objective's keys."""
    return jax.eval_shape(lambda: jax.random.split(jax.random.key(0), images))


def frozen_shapes(config: ConfigDict, setup: Setup) -> dict[str, Any]:
    """The frozen networks' parameters as a run stores them."""
    stored = jnp.dtype(PRECISIONS[config.frozen_precision])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, stored), setup.frozen)


def image_flops(config: ConfigDict, setup: Setup) -> float:
    """FLOPs of an image, forward and backward, by XLA's count of the program as traced.

    Attention is traced whole: XLA counts a loop's body once. Convolutions count as defined. What `remat` computes again counts too.
    """
    nets = {name: whole(net) for name, net in setup.nets.items()}
    objective = make_objective(config, setup._replace(nets=nets))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (setup.params, setup.frozen))
    return counted(jax.value_and_grad(objective, has_aux=True), *shapes, example_batch(config, setup, 1), keys_of(1))


def evaluation_flops(nets: dict[str, Any], params: dict[str, Any], latent: tuple[int, ...], depth: int | None = None) -> float:
    """FLOPs of one evaluation of the control branch and the UNet, counted as in `image_flops`; with a `depth` of one that reuses
    what lies deeper in the UNet, and the control branch."""
    z_t, t = jax.ShapeDtypeStruct(latent, jnp.float32), jax.ShapeDtypeStruct(latent[:1], jnp.int32)
    width = nets["unet"].context_dim
    context = width and jax.ShapeDtypeStruct((latent[0], 77, width), jnp.float32)
    control, unet = (whole(nets[name]) for name in ("control", "unet"))
    small, *_, cond = control.example_inputs()
    sides = (side * cond.shape[1] // small.shape[1] for side in latent[1:3])
    cond = jax.ShapeDtypeStruct((latent[0], *sides, cond.shape[-1]), jnp.float32)

    def full(params, z_t, t, context, cond):
        signals = control.apply({"params": params["control"]}, z_t, t, context, cond)
        return unet.apply({"params": params["unet"]}, z_t, t, context, signals, depth=depth), signals

    def cheap(params, z_t, t, context, cond, signals, deep):
        return unet.apply({"params": params["unet"]}, z_t, t, context, signals[:depth], depth=depth, deep=deep)

    given = {name: params[name] for name in ("control", "unet")}, z_t, t, context, cond
    if depth is None:
        return counted(full, *given)
    (_, deep), signals = jax.eval_shape(full, *given)
    return counted(cheap, *given, signals, deep)


def counted(function: Callable, *shapes: Any) -> float:
    """A function's FLOPs as the CPU's XLA counts them: a GPU's counts none before it compiles."""
    try:
        [cpu, *_] = jax.local_devices(backend="cpu")
    except RuntimeError:
        raise InputError("JAX may not use the CPU, where FLOPs are counted; add cpu to JAX_PLATFORMS") from None
    with jax.default_device(cpu):
        return float(jax.jit(function).lower(*shapes).cost_analysis()["flops"])


def whole(net: Any) -> Any:
    """The network as it is counted."""
    net = as_stored(net)
    plain = {"attention_implementation": "einsum", "conv_implementation": "xla"}
    return net.clone(**{field: how for field, how in plain.items() if hasattr(net, field)})


def kept_bytes(config: ConfigDict, setup: Setup) -> int:
    """Bytes of an image's activations that the backward pass keeps, as traced: an upper bound, which XLA's fusion lowers."""
    objective = make_objective(config, setup)

    def residuals(params, frozen, batch, keys):
        return jax.vjp(lambda p: objective(p, frozen, batch, keys)[0], params)[1]

    kept = jax.eval_shape(residuals, setup.params, setup.frozen, example_batch(config, setup, PRIME), keys_of(PRIME))
    return sum(stored(x) for x in jax.tree.leaves(kept) if x.size % PRIME == 0) // PRIME


@dataclass(frozen=True)
class Cost:
    """Numbers of parameters, bytes on each device, and FLOPs of a step over all of them."""

    trained: int
    frozen: int
    devices: int
    weights: int
    optimizer: int
    frozen_weights: int
    gradient: int
    activations: int
    flops: float

    def __str__(self) -> str:
        gib = lambda *parts: f"{sum(parts) / 2**30:.2f} GiB"  # noqa: E731
        total = gib(self.weights, self.optimizer, self.frozen_weights, self.gradient, self.activations)
        return (
            f"parameters: {self.trained / 1e6:.2f} M trained, {self.frozen / 1e6:.2f} M frozen\n"
            f"memory on each of {self.devices} device(s): at most {total}: {gib(self.weights)} weights and average, "
            f"{gib(self.optimizer)} optimizer, {gib(self.gradient)} gradient, {gib(self.frozen_weights)} frozen weights, "
            f"{gib(self.activations)} activations as traced, before fusion\n"
            f"FLOPs a step: {self.flops:.4g}, over all devices"
        )


def cost_of(config: ConfigDict, devices: int) -> Cost:
    """The cost of a recipe on `devices` devices, from shapes alone."""
    setup = abstract_setup(config)
    frozen = frozen_shapes(config, setup)
    setup = setup._replace(frozen=frozen)
    optimizer = make_optimizer(config.optimizer, config.steps)
    state = jax.eval_shape(lambda params: init_state(params, optimizer, config.optimizer.ema > 0), setup.params)
    images = config.data.batch // devices // config.optimizer.accumulate
    return Cost(
        trained=size(setup.params),
        frozen=size({k: v for k, v in frozen.items() if k != "empty"}),
        devices=devices,
        weights=stored((state.params, state.ema)),
        optimizer=stored(state.opt_state) // (devices if config.optimizer.sharded else 1),
        frozen_weights=stored(frozen),
        gradient=stored(state.params),
        activations=kept_bytes(config, setup) * images,
        flops=image_flops(config, setup) * config.data.batch,
    )
