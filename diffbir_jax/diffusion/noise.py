"""Where a sampler's noise comes from, and the forward process."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from diffbir_jax.diffusion.schedule import Schedule
from diffbir_jax.types import Latent

DRAWS_APART = 4096  # more than any t
Noise = Callable[..., Latent]  # (t, like, draw=0) -> standard normal of like's shape; draw counts what one step takes


def streams(keys: Key[Array, "B"]) -> Noise:
    """Noise from one key an image, folded with t and the draw: it does not depend on an image's batch or on the steps kept.

    `streams(keys)(1000, like)`, a step that no sampler takes, serves for the start.
    """

    def noise(t: ArrayLike, like: Latent, draw: int = 0) -> Latent:
        fold = t + DRAWS_APART * draw
        return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, fold), like.shape[1:], like.dtype))(keys)

    return noise


def recorded(steps: Any, draws: Float[Array | np.ndarray, "M B h w c"]) -> Noise:
    """Noise drawn beforehand: as many arrays a row of `steps` as the sampler takes draws, a row's one after the other."""
    each = len(draws) // len(steps.t)

    def noise(t: ArrayLike, like: Latent, draw: int = 0) -> Latent:
        return jnp.asarray(draws)[each * jnp.argmax(jnp.asarray(steps.t) == t) + draw]

    return noise


def diffuse(schedule: Schedule, z0: Latent, t: ArrayLike, eps: Latent) -> Latent:
    """z_t = sqrt(abar) z0 + sqrt(1 - abar) eps (Ho et al. 2020, eq. 4); t is one number, or one an image."""
    signal, noise = schedule.scales(jnp.broadcast_to(t, z0.shape[:1])[:, None, None, None])
    return signal * z0 + noise * eps
