"""The pure training step that all objectives share.

An objective is a function (params, frozen, batch, keys) -> (loss, metrics): `frozen` maps network names to parameters that receive
no gradient, `keys` are one an image, the loss is the mean over the images, and metrics are sums with their counts.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from diffbir_jax.training.state import Guard, TrainState, from_vector, state_specs, to_vector

MEMORY = 100  # updates over which the guard's mean and variance reach
LEAST_UPDATES = 50  # before the guard knows what a spike is
LEAST_DEVIATION = 0.01  # of the mean: a loss this steady is not yet suspicious


class Mean(NamedTuple):
    """A mean that can be added to others of its kind."""

    total: Float[Array, ""]
    count: Float[Array, ""]

    @classmethod
    def of(cls, values: Float[Array, "*n"], weights: Float[Array, "*n"] | float = 1.0) -> "Mean":
        """The mean of `values`, weighted."""
        weights = jnp.broadcast_to(jnp.asarray(weights, jnp.float32), values.shape)
        return cls(jnp.sum(values * weights), jnp.sum(weights))


Metrics = dict[str, Mean]
Objective = Callable[[PyTree, Mapping[str, PyTree], Mapping[str, Array], Key[Array, "B"]], tuple[Float[Array, ""], Metrics]]


def image_keys(key: Key[Array, ""], step: Int[Array, ""], index: Int[Array, "B"]) -> Key[Array, "B"]:
    """One key an image, of the step and the image's place in the whole batch: the same on any number of devices and hosts."""
    key = jax.random.fold_in(key, step)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def gradient(objective: Objective, params: PyTree, frozen: Mapping, batch: Mapping, keys: Key[Array, "B"], parts: int):
    """The mean gradient as a vector, and the metrics, of a batch taken in `parts` one after another (gradient accumulation)."""

    def one(part):
        (loss, metrics), grads = jax.value_and_grad(objective, has_aux=True)(params, frozen, *part)
        return to_vector(grads) / parts, metrics | {"loss": Mean(loss, jnp.ones(()))}

    if parts == 1:
        return one((batch, keys))
    split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), (batch, keys))
    shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], split))
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, one(part)), None), start, split)[0]


def reduce(grads: Float[Array, "N"], metrics: Metrics, devices: int, sharded: bool) -> tuple[Float[Array, "M"], Metrics]:
    """The gradient averaged and the metrics added over the devices, by one collective; `sharded`: each keeps its share of the
    gradient (reduce-scatter)."""
    if sharded:
        return jax.lax.psum_scatter(grads, "data", tiled=True) / devices, jax.lax.psum(metrics, "data")
    leaves, treedef = jax.tree.flatten(metrics)
    both = jax.lax.psum(jnp.concatenate([grads, jnp.stack(leaves)]), "data")
    return both[: grads.size] / devices, jax.tree.unflatten(treedef, list(both[grads.size :]))


def judge(guard: Guard, loss: Float[Array, ""], norm: Float[Array, ""], sigma: float) -> tuple[Bool[Array, ""], Guard]:
    """Whether an update may be made, and the guard after it.

    Not if the loss or the gradient is not finite, nor, unless `sigma` is 0, if the loss lies `sigma` standard deviations above its
    running mean.
    """
    deviation = jnp.maximum(jnp.sqrt(guard.variance), LEAST_DEVIATION * jnp.abs(guard.mean))
    spike = (sigma > 0) & (guard.accepted >= LEAST_UPDATES) & (loss > guard.mean + sigma * deviation)
    good = jnp.isfinite(loss) & jnp.isfinite(norm) & ~spike
    weight = 1 / jnp.minimum(guard.accepted + 1, MEMORY).astype(jnp.float32)
    delta = loss - guard.mean
    mean, variance = guard.mean + weight * delta, (1 - weight) * (guard.variance + weight * delta**2)
    taken = Guard(mean, variance, guard.accepted + 1, guard.skipped, jnp.zeros_like(guard.in_a_row))
    passed = guard.replace(skipped=guard.skipped + 1, in_a_row=guard.in_a_row + 1)
    return good, choose(good, taken, passed)


def choose(good: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    """`new` if `good`, else `old`."""
    return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    ema: float = 0.0,
    clip: float = 1.0,
    accumulate: int = 1,
    sharded: bool = False,
    sigma: float = 10.0,
) -> Callable:
    """The jitted step (state, frozen, batch, key) -> (state, metrics); the state's buffers are donated.

    Args:
        objective: see the module.
        optimizer: elementwise; it sees the parameters as one vector.
        mesh: of one axis "data", over which the batch is split.
        ema: decay of the moving average, which warms up as (1 + step) / (10 + step); 0: the state has none.
        clip: largest global norm of the gradient.
        accumulate: parts in which a device's share of the batch is taken.
        sharded: each device updates its share of the parameters and keeps that of the optimizer's state (ZeRO, stage 1, Rajbhandari
            et al. 2020): reduce-scatter and all-gather instead of an all-reduce. The state's layout is `state_specs`.
        sigma: see `judge`; a skipped update leaves everything but the step and the guard as it was.
    """

    def local(state, frozen, batch, key):
        keys = image_keys(key, state.step, batch["index"])
        grads, metrics = reduce(*gradient(objective, state.params, frozen, batch, keys, accumulate), mesh.size, sharded)
        squares = jnp.sum(grads**2)
        norm = jnp.sqrt(jax.lax.psum(squares, "data") if sharded else squares)
        good, guard = judge(state.guard, metrics["loss"].total / metrics["loss"].count, norm, sigma)

        old = jax.lax.optimization_barrier(to_vector(state.params))  # else XLA joins it anew wherever a part is used
        if sharded:
            old = jax.lax.dynamic_slice_in_dim(old, jax.lax.axis_index("data") * grads.size, grads.size)
        grads *= jnp.minimum(1, clip / jnp.maximum(norm, 1e-12))
        updates, opt_state = optimizer.update(grads, state.opt_state, old)
        new = choose(good, optax.apply_updates(old, updates), old)
        new = jax.lax.optimization_barrier(jax.lax.all_gather(new, "data", tiled=True) if sharded else new)
        params, average = from_vector(new, state.params), None
        if ema:
            decay = jnp.minimum(ema, (1 + state.step) / (10 + state.step))
            average = choose(good, jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, state.ema, params), state.ema)

        metrics = jax.tree.map(lambda x: jnp.where(good, x, 0), metrics | {"gradient_norm": Mean.of(norm)})
        metrics |= {"skipped": Mean.of(1.0 - good), "skipped_in_a_row": Mean.of(guard.in_a_row.astype(jnp.float32))}
        return TrainState(state.step + 1, params, average, choose(good, opt_state, state.opt_state), guard), metrics

    def step(state, frozen, batch, key):
        specs = state_specs(state, sharded)
        in_specs, out_specs = (specs, P(), P("data"), P()), (specs, P())
        return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)(state, frozen, batch, key)

    return jax.jit(step, donate_argnums=0)
