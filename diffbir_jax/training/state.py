"""What a training run carries from step to step."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict


@flax.struct.dataclass
class TrainState:
    """Step counter, trained parameters, their moving average and the optimizer's state; frozen networks are not in it."""

    step: Any  # int32 scalar; under compilation JAX puts its own descriptions here
    params: Any
    ema: Any
    opt_state: Any


def make_optimizer(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    """AdamW after clipping by the global norm; the rate rises over `warmup` steps and falls by a cosine to `final` x its peak."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, min(config.warmup, steps - 1), steps, config.learning_rate * config.final
    )
    adamw = optax.adamw(rate, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay)
    return optax.chain(optax.clip_by_global_norm(config.clip), adamw)


def init_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), optimizer.init(params))
