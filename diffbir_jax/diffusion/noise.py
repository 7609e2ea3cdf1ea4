"""Where a sampler's noise comes from, and the forward process."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from diffbir_jax.diffusion.schedule import Schedule, Steps
from diffbir_jax.types import Latent

Noise = Callable[[ArrayLike, Latent], Latent]  # (t, like) -> standard normal of like's shape


def streams(keys: Key[Array, "B"]) -> Noise:
    """Noise from one key an image, folded with t: an image's draws do not depend on its batch or on the steps kept.

    `streams(keys)(1000, like)`, a step that no sampler takes, serves for the start.
    """

    def noise(t: ArrayLike, like: Latent) -> Latent:
        return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, t), like.shape[1:], like.dtype))(keys)

    return noise


def recorded(steps: Steps, draws: Float[Array | np.ndarray, "N B h w c"]) -> Noise:
    """Noise drawn beforehand, one array a row of `steps`."""

    def noise(t: ArrayLike, like: Latent) -> Latent:
        return jnp.asarray(draws)[jnp.argmax(jnp.asarray(steps.t) == t)]

    return noise


def diffuse(schedule: Schedule, z0: Latent, t: ArrayLike, eps: Latent) -> Latent:
    """z_t = sqrt(abar) z0 + sqrt(1 - abar) eps (Ho et al. 2020, eq. 4); t is one number, or one an image."""
    signal, noise = schedule.scales(jnp.broadcast_to(t, z0.shape[:1])[:, None, None, None])
    return signal * z0 + noise * eps
