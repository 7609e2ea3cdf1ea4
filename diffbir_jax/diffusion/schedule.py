"""Noise schedules, the rows that samplers step through, and clean estimates from a network's eps or v."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from diffbir_jax.errors import InputError
from diffbir_jax.types import Latent

Parameterisation = Literal["eps", "v"]
Predict = Callable[[Latent, Num[Array, "B"]], Latent]  # a network: (z_t, t of every image) -> eps or v
Denoiser = Callable[[Latent, Int[Array, ""]], Latent]  # (z_t, t) -> the clean estimate z0


@dataclass(frozen=True, eq=False)
class Schedule:
    """The noise of training (Ho et al. 2020, section 2): betas per step, float64."""

    betas: Float[np.ndarray, "T"]

    @cached_property
    def abar(self) -> Float[np.ndarray, "T"]:
        """Share of the signal's variance left at every step."""
        return np.cumprod(1 - self.betas)

    def scales(self, t: Int[Array, "*S"]) -> tuple[Float[Array, "*S"], Float[Array, "*S"]]:
        """sqrt(abar) and sqrt(1 - abar) at t: z_t = first * z0 + second * eps."""
        signal, noise = np.sqrt(self.abar), np.sqrt(1 - self.abar)
        return jnp.asarray(signal, jnp.float32)[t], jnp.asarray(noise, jnp.float32)[t]


def zero_terminal_snr(betas: Float[np.ndarray, "T"]) -> Float[np.ndarray, "T"]:
    """Betas whose last step is pure noise, the first unchanged (Lin et al. 2024, algorithm 1)."""
    signal = np.sqrt(np.cumprod(1 - betas))
    abar = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
    return 1 - abar / np.append(1.0, abar[:-1])


SCALED_LINEAR = Schedule(np.linspace(np.sqrt(0.00085), np.sqrt(0.0120), 1000) ** 2)  # Stable Diffusion's: DiffBIR v1, v2
ZERO_SNR = Schedule(zero_terminal_snr(SCALED_LINEAR.betas))  # DiffBIR v2.1


class Steps(NamedTuple):
    """Rows of a sampler, noisiest first, float32: z_prev = coef_z0 * z0 + coef_zt * z_t + std * noise.

    `t` is the step number that the network sees, int32; `abar` is the schedule's there.
    """

    t: Int[Array | np.ndarray, "N"]
    abar: Float[Array | np.ndarray, "N"]
    coef_z0: Float[Array | np.ndarray, "N"]
    coef_zt: Float[Array | np.ndarray, "N"]
    std: Float[Array | np.ndarray, "N"]


def _rows(t: np.ndarray, *columns: np.ndarray) -> Steps:
    return Steps(t[::-1].astype(np.int32), *(np.float32(column[::-1]) for column in columns))


def check_steps(steps: int, schedule: Schedule) -> int:
    """The schedule's length; InputError where `steps` is not between 1 and it."""
    total = len(schedule.betas)
    if not 1 <= steps <= total:
        raise InputError(f"steps is {steps}; give 1 to {total}, for example 50")
    return total


def spaced(steps: int, schedule: Schedule = SCALED_LINEAR) -> Steps:
    """Rows of the spaced DDPM (Nichol and Dhariwal 2021, section 4): betas re-derived from the abar kept, posterior variance
    "fixed small", std 0 in the last row.

    Args:
        steps: how many to keep, 1 to the schedule's length, at equal strides with both ends; a single one is t = 0.

    Raises:
        InputError: `steps` is out of range.
    """
    total = check_steps(steps, schedule)
    strides = np.full(steps - 1, (total - 1) / max(steps - 1, 1))
    t = np.round(np.cumsum(np.append(0.0, strides))).astype(int)  # added up, not multiplied: ties round as the original's
    abar = schedule.abar[t]
    prev = np.append(1.0, abar[:-1])
    alpha = abar / prev
    coef_z0 = np.sqrt(prev) * (1 - alpha) / (1 - abar)
    coef_zt = np.sqrt(alpha) * (1 - prev) / (1 - abar)
    return _rows(t, abar, coef_z0, coef_zt, np.sqrt((1 - alpha) * (1 - prev) / (1 - abar)))


def ddim_rows(steps: int, schedule: Schedule = SCALED_LINEAR, eta: float = 0.0) -> Steps:
    """Rows of DDIM (Song et al. 2021, eq. 12): every (1000 // steps)-th step plus one, down to the abar of step 0.

    Their number is `steps` where it divides 1000, else more (1000 // steps is rounded down), as in the original.

    Args:
        steps: 1 to the schedule's length.
        eta: noise added: 0 none, 1 as much as DDPM.

    Raises:
        InputError: `steps` is out of range.
    """
    total = check_steps(steps, schedule)
    t = np.unique(np.minimum(np.arange(0, total, total // steps) + 1, total - 1))
    abar = schedule.abar[t]
    prev = np.append(schedule.abar[0], abar[:-1])
    std = eta * np.sqrt((1 - prev) / (1 - abar) * (1 - abar / prev))
    coef_zt = np.sqrt((1 - prev - std**2) / (1 - abar))
    return _rows(t, abar, np.sqrt(prev) - coef_zt * np.sqrt(abar), coef_zt, std)


def below(steps: Any, t: int) -> Any:
    """The rows, of any sampler, at t or less noisy: sampling then starts from an image diffused to the first row's t."""
    return jax.tree.map(lambda column: column[steps.t <= t], steps)


def check_parameterisation(schedule: Schedule, parameterisation: Parameterisation) -> None:
    """InputError where a network predicts eps and the schedule ends in pure noise, from which eps tells nothing of z0."""
    if parameterisation == "eps" and schedule.abar[-1] == 0:
        raise InputError("the schedule ends with zero signal, which needs a network that predicts v; this one predicts eps")


def denoiser(predict: Predict, schedule: Schedule, parameterisation: Parameterisation) -> Denoiser:
    """The clean z0 from a network's prediction: (z_t - sqrt(1 - abar) eps) / sqrt(abar), or sqrt(abar) z_t - sqrt(1 - abar) v.

    Args:
        predict: (z_t, t as an array of B) -> eps or v.

    Raises:
        InputError: eps with a schedule that ends in pure noise, from which it tells nothing of z0.
    """
    check_parameterisation(schedule, parameterisation)

    def denoise(z_t: Latent, t: Int[Array, ""]) -> Latent:
        prediction = predict(z_t, jnp.broadcast_to(t, z_t.shape[:1]))
        return clean(schedule, parameterisation, z_t, t, prediction)

    return denoise


def clean(schedule: Schedule, parameterisation: Parameterisation, z_t: Latent, t: Int[Array, "*S"], prediction: Latent) -> Latent:
    """The clean estimate z0 of a prediction at t, one number or one an image, shaped to broadcast."""
    signal, noise = schedule.scales(t)
    return (z_t - noise * prediction) / signal if parameterisation == "eps" else signal * z_t - noise * prediction
