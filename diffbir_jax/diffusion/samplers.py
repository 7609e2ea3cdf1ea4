"""Samplers: pure functions of a denoiser, a start, rows of the schedule and noise. They know no network.

Here are DDPM, DDIM and the table `SAMPLERS` of all; single_step.py and multistep.py hold those that work on sigma. Guidance: every
sampler but DDPM, which keeps the original's half shift, goes on as if the guided estimate were the denoiser's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax

from diffbir_jax.diffusion import multistep, single_step
from diffbir_jax.diffusion.guidance import Guide, free
from diffbir_jax.diffusion.noise import Noise
from diffbir_jax.diffusion.schedule import SCALED_LINEAR, Denoiser, Schedule, Steps, ddim_rows, denoiser, spaced
from diffbir_jax.diffusion.sigmas import (
    Levels,
    MultistepSteps,
    dpm_solver_levels,
    heun_rows,
    k_levels,
    multistep_rows,
    sde_rows,
    sigma_denoiser,
    sigma_rows,
    sigma_start,
    unipc_levels,
)
from diffbir_jax.diffusion.single_step import Trace
from diffbir_jax.types import Latent


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
    """DDIM (Song et al. 2021, eq. 12); arguments and result as `ddpm`, with rows from `ddim_rows`. The original guides no DDIM."""

    def step(z_t: Latent, s: Steps) -> tuple[Latent, Trace]:
        z0 = denoise(z_t, s.t)
        z0 = z0 + guide(z0, s.t)
        z_prev = s.coef_z0 * z0 + s.coef_zt * z_t + s.std * noise(s.t, z_t)
        return z_prev, Trace(z_prev, z0)

    return jax.lax.scan(step, z, steps)


class Sampler(NamedTuple):
    """A way to sample, and what it needs.

    `sample`: (denoise, x, rows, noise, guide) -> (z0, Trace).
    `rows`: (steps, schedule, eta) -> a NamedTuple of columns, noisiest first, `t` among them; only DDIM reads eta, the stochastic
    others have the original's, 1. `schedule.below` leaves noisy rows out.
    `denoiser`: (predict, schedule, parameterisation) -> what `sample` takes as `denoise`; `predict` sees unit variance, and a step
    number that is float32 for `dpm++_2m` and int32 for all others.
    `start`: (z_t of unit variance, rows) -> x.
    `draws`: standard normal draws a row.
    `evaluations`: (number of rows) -> calls of `predict`.
    """

    sample: Callable[..., tuple[Latent, Trace]]
    rows: Callable[[int, Schedule, float], Any]
    denoiser: Callable[..., Callable]
    start: Callable[[Latent, Any], Latent]
    draws: int
    evaluations: Callable[[int], int]


def _on_z(sample: Callable, rows: Callable) -> Sampler:
    return Sampler(sample, rows, denoiser, lambda z, rows: z, 1, lambda n: n)


def _on_sigma(sample: Callable, rows: Callable, draws: int = 0, twice: bool = False, levels: Callable = k_levels) -> Sampler:
    def rows_of(steps: int, schedule: Schedule = SCALED_LINEAR, eta: float = 0.0) -> Any:
        return rows(levels(steps, schedule))

    return Sampler(sample, rows_of, sigma_denoiser, sigma_start, draws, lambda n: 2 * n - 1 if twice else n)


def _spaced(steps: int, schedule: Schedule = SCALED_LINEAR, eta: float = 0.0) -> Steps:
    return spaced(steps, schedule)


def _dpm_solver_rows(levels: Levels) -> MultistepSteps:
    return multistep_rows(levels, last_first_order=len(levels.sigma) < 10)  # the original's rule


_ancestral, _sde = partial(sigma_rows, eta=1.0), partial(multistep_rows, eta=1.0)
SAMPLERS = {
    "ddpm": _on_z(ddpm, _spaced),
    "ddim": _on_z(ddim, ddim_rows),
    "dpm++_2m": _on_sigma(multistep.dpmpp_2m, _dpm_solver_rows, levels=dpm_solver_levels),
    "edm_dpm++_2m": _on_sigma(multistep.dpmpp_2m, multistep_rows),
    "dpm++_2m_sde": _on_sigma(multistep.dpmpp_2m_sde, _sde, draws=1),
    "dpm++_3m_sde": _on_sigma(multistep.dpmpp_3m_sde, _sde, draws=1),
    "euler": _on_sigma(single_step.euler, sigma_rows),
    "euler_a": _on_sigma(single_step.euler_a, _ancestral, draws=1),
    "heun": _on_sigma(single_step.heun, heun_rows, twice=True),
    "dpm_2": _on_sigma(single_step.dpm_2, sigma_rows, twice=True),
    "dpm_2_a": _on_sigma(single_step.dpm_2_a, _ancestral, draws=1, twice=True),
    "lms": _on_sigma(multistep.lms, sigma_rows),
    "dpm++_2s_a": _on_sigma(single_step.dpmpp_2s_a, _ancestral, draws=1, twice=True),
    "dpm++_sde": _on_sigma(single_step.dpmpp_sde, sde_rows, draws=2, twice=True),
    "unipc": _on_sigma(multistep.unipc, multistep_rows, levels=unipc_levels),
}
