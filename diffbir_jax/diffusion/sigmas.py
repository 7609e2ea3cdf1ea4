"""Levels, rows, denoiser and start of the samplers that step through sigma = sqrt((1 - abar) / abar), as k-diffusion's do.

Their state is x = z_t sqrt(1 + sigma^2) = z0 + sigma eps; the network still sees z_t. A step goes to the level `down` and adds
noise of `up`, so that down^2 + up^2 is the next sigma's square; without noise `down` is the next sigma.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Num

from diffbir_jax.diffusion.schedule import SCALED_LINEAR, Parameterisation, Predict, Schedule, check_parameterisation, check_steps
from diffbir_jax.types import Latent

SigmaDenoiser = Callable[[Latent, ArrayLike, ArrayLike], Latent]  # (x, time, sigma) -> the clean estimate z0
LEAST_ABAR = 1e-8  # stands for 0 where no signal is left: sigma = 10^4
LEAST_LOG_SNR = -5.1  # log(signal / noise) below which DPM-Solver leaves a schedule's steps out


class Levels(NamedTuple):
    """What a sampler steps through, noisiest first, float64: the network's step at every sigma, and where the last step ends."""

    time: Num[np.ndarray, "N"]
    sigma: Float[np.ndarray, "N"]
    end: float = 0.0


class SigmaSteps(NamedTuple):
    """Rows of the samplers without memory, noisiest first, float32.

    `t` is the step number, int32, `time` what the network sees: t, or with a fraction. `second` is the level of a second
    evaluation, `second_time` the step that the network sees there.
    """

    t: Int[Array | np.ndarray, "N"]
    time: Num[Array | np.ndarray, "N"]
    sigma: Float[Array | np.ndarray, "N"]
    down: Float[Array | np.ndarray, "N"]
    up: Float[Array | np.ndarray, "N"]
    second: Float[Array | np.ndarray, "N"]
    second_time: Num[Array | np.ndarray, "N"]


class SDESteps(NamedTuple):
    """Rows of DPM-Solver++ SDE: those of `SigmaSteps`; `second_down` and `second_up` of the way to the second evaluation, and
    `share`, which of the variance of a step's noise has been drawn by then."""

    t: Int[Array | np.ndarray, "N"]
    time: Num[Array | np.ndarray, "N"]
    sigma: Float[Array | np.ndarray, "N"]
    down: Float[Array | np.ndarray, "N"]
    up: Float[Array | np.ndarray, "N"]
    second: Float[Array | np.ndarray, "N"]
    second_time: Num[Array | np.ndarray, "N"]
    second_down: Float[Array | np.ndarray, "N"]
    second_up: Float[Array | np.ndarray, "N"]
    share: Float[Array | np.ndarray, "N"]


class MultistepSteps(NamedTuple):
    """Rows of the exponential multistep samplers, noisiest first, float32; `t`, `time`, `sigma`, `down`, `up` as in `SigmaSteps`.

    `h` is log(sigma / next sigma), the step in log-SNR, or 0 for a step of first order. For H = log(sigma / down): `phi2` is
    1 - (1 - exp(-H)) / H and `phi3` phi2 / H - 1 / 2.
    """

    t: Int[Array | np.ndarray, "N"]
    time: Num[Array | np.ndarray, "N"]
    sigma: Float[Array | np.ndarray, "N"]
    down: Float[Array | np.ndarray, "N"]
    up: Float[Array | np.ndarray, "N"]
    h: Float[Array | np.ndarray, "N"]
    phi2: Float[Array | np.ndarray, "N"]
    phi3: Float[Array | np.ndarray, "N"]


def sigma_of(abar: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """sqrt((1 - abar) / abar), finite where abar is 0."""
    abar = np.where(abar > 0, abar, LEAST_ABAR)
    return np.sqrt((1 - abar) / abar)


def k_levels(steps: int, schedule: Schedule = SCALED_LINEAR) -> Levels:
    """Of the k-diffusion family in DiffBIR: steps floor(linspace(T - 1, 0, N, end excluded)), then sigma 0.

    As there, abar is 1e-8 (sigma 10^4) at the first step of every schedule. An eps network tells little of the clean latent from
    there: v1 and v2 are then better started from the condition.

    Raises:
        InputError: `steps` is not between 1 and the schedule's length.
    """
    time = np.linspace(check_steps(steps, schedule) - 1, 0, steps, endpoint=False).astype(int)
    return Levels(time, sigma_of(np.append(0.0, schedule.abar[time[1:]])))


def unipc_levels(steps: int, schedule: Schedule = SCALED_LINEAR) -> Levels:
    """Of UniPC in diffusers: round(linspace(T - 1, 0, N + 1)) without the last, equal ones once; then sigma 0.

    Raises:
        InputError: as `k_levels`.
    """
    time = np.unique(np.linspace(0, check_steps(steps, schedule) - 1, steps + 1).round()[1:].astype(int))[::-1]
    return Levels(time, sigma_of(schedule.abar[time]))


def dpm_solver_levels(steps: int, schedule: Schedule = SCALED_LINEAR) -> Levels:
    """Of DPM-Solver++ in DiffBIR (`dpm++_m2` there): uniform in time from end to end, log abar linear between the schedule's steps.

    Steps of a log-SNR below -5.1 are left out and the others stretched over the time, as there; it ends at step 0, not at sigma 0.

    Raises:
        InputError: as `k_levels`.
    """
    total = check_steps(steps, schedule)
    log_snr = -np.log(sigma_of(schedule.abar))
    kept = np.log(schedule.abar[log_snr >= LEAST_LOG_SNR])
    time = np.linspace(1, 1 / len(kept), steps + 1)
    sigma = sigma_of(np.exp(np.interp(time, np.arange(1, len(kept) + 1) / len(kept), kept)))
    return Levels((time[:-1] - 1 / len(kept)) * total, sigma[:-1], float(sigma[-1]))


def ancestral(sigma: np.ndarray, to: np.ndarray, eta: float) -> tuple[np.ndarray, np.ndarray]:
    """(down, up) of an ancestral step (DDPM's, at eta 1): up^2 = eta^2 to^2 (1 - to^2 / sigma^2)."""
    up = np.minimum(to, eta * to * np.sqrt(np.maximum(1 - (to / sigma) ** 2, 0)))
    return np.sqrt(to**2 - up**2), up


def nearest_time(levels: Levels, sigma: np.ndarray) -> np.ndarray:
    """The step of the nearest of the levels and of sigma 0, which is step 0: what the original's network sees between levels."""
    table, time = np.append(levels.sigma, 0), np.append(levels.time, 0)
    return time[np.abs(sigma[:, None] - table[None]).argmin(1)]


def sigma_rows(levels: Levels, eta: float = 0.0) -> SigmaSteps:
    """Rows of the samplers without memory; the second evaluation is halfway to `down` in log sigma."""
    down, up = ancestral(levels.sigma, _next(levels), eta)
    return _second(levels, down, up, np.sqrt(levels.sigma * down))


def heun_rows(levels: Levels) -> SigmaSteps:
    """Rows of Heun's method: the second evaluation is at the step's end."""
    return _second(levels, _next(levels), 0 * levels.sigma, _next(levels))


def sde_rows(levels: Levels, eta: float = 1.0) -> SDESteps:
    """Rows of DPM-Solver++ SDE: the second evaluation is halfway to the next sigma in log sigma."""
    sigma, to = levels.sigma, _next(levels)
    middle = np.sqrt(sigma * to)
    rows = _second(levels, *ancestral(sigma, to, eta), middle)
    return SDESteps(*rows, *map(np.float32, (*ancestral(sigma, middle, eta), (sigma - middle) / (sigma - to))))


def multistep_rows(levels: Levels, eta: float = 0.0, last_first_order: bool = False) -> MultistepSteps:
    """Rows of the exponential multistep samplers.

    Args:
        eta: noise of the SDE (Lu et al. 2022, DPM-Solver++, section 6): down = next exp(-eta h), 0 for none.
        last_first_order: take the last step with first order also where it does not end at sigma 0.
    """
    sigma, to = levels.sigma, _next(levels)
    with np.errstate(divide="ignore"):
        h = np.log(sigma / to)
    fade = np.where(to > 0, np.exp(-eta * np.where(to > 0, h, 0)), 0)
    ratio = fade * to / sigma
    width = np.where(to > 0, (1 + eta) * h, np.inf)
    phi2 = 1 - (1 - ratio) / width
    h[-1] = 0 if last_first_order or levels.end == 0 else h[-1]
    columns = (sigma, fade * to, to * np.sqrt(1 - fade**2), h, phi2, phi2 / width - 0.5)
    return MultistepSteps(*_times(levels.time), *map(np.float32, columns))


def sigma_start(z: Latent, rows: Any) -> Latent:
    """x from z_t of the first row's step, or from unit noise: z sqrt(1 + sigma^2)."""
    return z * jnp.sqrt(1 + jnp.asarray(rows.sigma)[0] ** 2)


def sigma_denoiser(predict: Predict, schedule: Schedule, parameterisation: Parameterisation) -> SigmaDenoiser:
    """The clean z0 from x: with z = x / sqrt(1 + sigma^2), x - sigma eps, or (z - sigma v) / sqrt(1 + sigma^2).

    Args:
        predict: (z_t, t as an array of B) -> eps or v.

    Raises:
        InputError: eps with a schedule that ends in pure noise, from which it tells nothing of z0.
    """
    check_parameterisation(schedule, parameterisation)

    def denoise(x: Latent, time: ArrayLike, sigma: ArrayLike) -> Latent:
        scale = 1 / jnp.sqrt(1 + sigma**2)
        prediction = predict(scale * x, jnp.broadcast_to(time, x.shape[:1]))
        return x - sigma * prediction if parameterisation == "eps" else scale * (scale * x - sigma * prediction)

    return denoise


def _next(levels: Levels) -> np.ndarray:
    return np.append(levels.sigma[1:], levels.end)


def _times(time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The step numbers and what the network sees."""
    t = time.round().astype(np.int32)
    return t, time.astype(np.float32) if time.dtype.kind == "f" else t


def _second(levels: Levels, down: np.ndarray, up: np.ndarray, second: np.ndarray) -> SigmaSteps:
    _, second_time = _times(nearest_time(levels, second))
    columns = (np.float32(column) for column in (levels.sigma, down, up, second))
    return SigmaSteps(*_times(levels.time), *columns, second_time)
