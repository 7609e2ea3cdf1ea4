"""Samplers: pure functions of a denoiser, a start, rows of the schedule and noise. They know no network."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffbir_jax.diffusion.guidance import Guide, free
from diffbir_jax.diffusion.noise import Noise
from diffbir_jax.diffusion.schedule import Denoiser, Steps
from diffbir_jax.types import Latent


class Trace(NamedTuple):
    """After every step, steps first: the state, and the clean estimate as guidance left it."""

    z: Float[Array, "N B h w c"]
    z0: Float[Array, "N B h w c"]


def ddpm(denoise: Denoiser, z: Latent, steps: Steps, noise: Noise, guide: Guide = free) -> tuple[Latent, Trace]:
    """Spaced DDPM (Ho et al. 2020, Algorithm 2) with latent image guidance (DiffBIR v1, Algorithm 1).

    Args:
        denoise: (z_t, t) -> the clean estimate z0; text, control, cfg and the eps or v parameterisation are inside.
        z: the start, unit variance scale.
        steps: the schedule's rows, noisiest first (`spaced`); the last has std 0.
        noise: (t, like) -> standard normal: `streams(keys)`, or recorded draws.
        guide: (z0, t) -> the shift toward I_reg, by jax.grad (guidance.py); the mean moves by half of it, as in the original.

    Returns:
        The clean latent, and every step's trace (free if dropped under jit).
    """

    def step(z_t: Latent, s: Steps) -> tuple[Latent, Trace]:
        z0 = denoise(z_t, s.t)
        shift = guide(z0, s.t)
        mean = s.coef_z0 * z0 + s.coef_zt * z_t + 0.5 * shift
        z_prev = mean + s.std * noise(s.t, z_t)
        return z_prev, Trace(z_prev, z0 + shift)

    return jax.lax.scan(step, z, steps)


def ddim(denoise: Denoiser, z: Latent, steps: Steps, noise: Noise, guide: Guide = free) -> tuple[Latent, Trace]:
    """DDIM (Song et al. 2021, eq. 12); arguments and result as `ddpm`, with rows from `ddim_rows`.

    The original guides no DDIM. Here z0 moves by the whole shift and eps stays, so z_t moves along by sqrt(abar) of it.
    """

    def step(z_t: Latent, s: Steps) -> tuple[Latent, Trace]:
        z0 = denoise(z_t, s.t)
        shift = guide(z0, s.t)
        mean = s.coef_z0 * (z0 + shift) + s.coef_zt * (z_t + jnp.sqrt(s.abar) * shift)
        z_prev = mean + s.std * noise(s.t, z_t)
        return z_prev, Trace(z_prev, z0 + shift)

    return jax.lax.scan(step, z, steps)
