"""What a training run carries from step to step."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PyTree
from ml_collections import ConfigDict

ALIGNMENT = 1024  # vectors are padded to a multiple of it, so that any power of two of devices up to it can share one


@flax.struct.dataclass
class Guard:
    """Running mean and variance of the loss, and how many updates were skipped: in all, and in a row until now."""

    mean: Any
    variance: Any
    accepted: Any
    skipped: Any
    in_a_row: Any


@flax.struct.dataclass
class TrainState:
    """Step counter, trained parameters, their moving average, the optimizer's state, the guard; frozen networks are not in it.

    The optimizer sees all parameters as one vector (`to_vector`), so that its state can be shared out over devices (ZeRO, stage 1).
    """

    step: Any  # int32 scalar; under compilation JAX puts its own descriptions here
    params: Any
    ema: Any  # None: no moving average
    opt_state: Any
    guard: Any


def to_vector(tree: PyTree) -> Float[Array, "N"]:
    """All arrays of a tree, one after another, padded with zeros to a multiple of ALIGNMENT."""
    leaves = [x.ravel() for x in jax.tree.leaves(tree)]
    padding = -sum(x.size for x in leaves) % ALIGNMENT
    return jnp.concatenate([*leaves, jnp.zeros(padding, jnp.float32)])


def from_vector(vector: Float[Array, "N"], like: PyTree) -> PyTree:
    """The inverse of `to_vector`, for a tree shaped as `like`."""
    leaves, treedef = jax.tree.flatten(like)
    ends = np.cumsum([x.size for x in leaves])
    parts = [vector[end - x.size : end].reshape(x.shape) for x, end in zip(leaves, ends, strict=True)]
    return jax.tree.unflatten(treedef, parts)


def learning_rate(config: ConfigDict, steps: int) -> optax.Schedule:
    """The rate by update: it rises over `warmup`, then falls by a cosine to `final` x its peak, or by `drops`, or stays.

    Args:
        config: a recipe's `optimizer`; schedule "cosine", "step" (`drops` are pairs of an update and a factor) or "constant".
        steps: updates in all.
    """
    peak, warmup = config.learning_rate, min(config.warmup, steps - 1)
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps, peak * config.final)
    drops = {at - warmup: factor for at, factor in config.drops} if config.schedule == "step" else {}
    after = optax.piecewise_constant_schedule(peak, drops)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup]) if warmup else after


def make_optimizer(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019) at the recipe's learning rate; float32 moments."""
    rate = learning_rate(config, steps)
    return optax.adamw(rate, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay)


def init_state(params: PyTree, optimizer: optax.GradientTransformation, ema: bool = True) -> TrainState:
    """The state before the first step; the average starts as a copy of the parameters."""
    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, average, optimizer.init(to_vector(params)), init_guard())


def init_guard() -> Guard:
    """The guard that has seen nothing."""
    return Guard(*(jnp.zeros((), dtype) for dtype in (jnp.float32, jnp.float32, jnp.int32, jnp.int32, jnp.int32)))


def trained_params(state: TrainState) -> PyTree:
    """The parameters to evaluate and to keep: the moving average, where there is one."""
    return state.params if state.ema is None else state.ema


def state_specs(state: TrainState, sharded: bool) -> TrainState:
    """How the state lies on the devices: all of it on each, but for the optimizer's vectors if `sharded`."""
    specs = jax.tree.map(lambda _: P(), state)
    split = jax.tree.map(lambda x: P("data") if sharded and x.ndim else P(), state.opt_state)
    return specs.replace(opt_state=split)
