"""Samplers on sigma without memory, one or two evaluations a step. Rows: `sigma_rows`, `heun_rows`, `sde_rows`.

All take a denoiser (x, time, sigma) -> z0 from `sigma_denoiser`, x from `sigma_start`, rows, noise and a guide; they return the
clean latent and a trace, whose z is x. Every estimate of the clean latent, the second of a step too, is moved by the guide's whole
shift before it is used, so that they solve the equation of the guided denoiser, with their own order; the second is guided as of
the first's t. A last step, to sigma 0, ends at its first estimate. A second evaluation enters as what it adds to Euler's step, or
float32 would not do at sigma = 10^4. The names are k-diffusion's; the equations are those of Karras et al. (2022), "Elucidating
the design space of diffusion-based generative models", and Lu et al. (2022), "DPM-Solver++".
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffbir_jax.diffusion.guidance import Guide, free
from diffbir_jax.diffusion.noise import Noise
from diffbir_jax.diffusion.sigmas import SDESteps, SigmaDenoiser, SigmaSteps
from diffbir_jax.types import Latent


class Trace(NamedTuple):
    """After every step, steps first: the state, in the sampler's own scale, and the clean estimate as guidance left it."""

    z: Float[Array, "N B h w c"]
    z0: Float[Array, "N B h w c"]


def guided(denoise: SigmaDenoiser, guide: Guide) -> Callable[[Latent, ArrayLike, ArrayLike, Any], Latent]:
    """(x, time, sigma, t) -> the clean estimate, moved by the guide's whole shift."""

    def estimate(x: Latent, time: ArrayLike, sigma: ArrayLike, t: Any) -> Latent:
        z0 = denoise(x, time, sigma)
        return z0 + guide(z0, t)

    return estimate


def toward(z0: Latent, x: Latent, ratio: ArrayLike) -> Latent:
    """From x to `ratio` of its noise, were z0 the clean latent: exact for a constant estimate (DDIM's step)."""
    return ratio * x + (1 - ratio) * z0


def euler(denoise: SigmaDenoiser, x: Latent, rows: SigmaSteps, noise: Noise, guide: Guide = free) -> tuple[Latent, Trace]:
    """Euler's method on dx/dsigma = (x - z0) / sigma (Karras et al., algorithm 1 without lines 6 to 8); first order."""
    estimate = guided(denoise, guide)

    def step(x: Latent, s: SigmaSteps) -> tuple[Latent, Trace]:
        z0 = estimate(x, s.time, s.sigma, s.t)
        x = toward(z0, x, s.down / s.sigma)
        return x, Trace(x, z0)

    return jax.lax.scan(step, x, rows)


def euler_a(denoise: SigmaDenoiser, x: Latent, rows: SigmaSteps, noise: Noise, guide: Guide = free) -> tuple[Latent, Trace]:
    """Euler to `down`, then noise of `up`; with the rows' eta 1 a step has the variance of DDPM's. One draw a step."""
    estimate = guided(denoise, guide)

    def step(x: Latent, s: SigmaSteps) -> tuple[Latent, Trace]:
        z0 = estimate(x, s.time, s.sigma, s.t)
        x = toward(z0, x, s.down / s.sigma) + s.up * noise(s.t, x)
        return x, Trace(x, z0)

    return jax.lax.scan(step, x, rows)


def heun(denoise: SigmaDenoiser, x: Latent, rows: SigmaSteps, noise: Noise, guide: Guide = free) -> tuple[Latent, Trace]:
    """Heun's method (Karras et al., algorithm 1): the mean of the slopes at both ends; second order. Rows: `heun_rows`."""
    estimate = guided(denoise, guide)

    def step(x: Latent, s: SigmaSteps) -> tuple[Latent, Trace]:
        z0 = estimate(x, s.time, s.sigma, s.t)
        ahead = toward(z0, x, s.down / s.sigma)

        def correct() -> Latent:
            z0_ahead = estimate(ahead, s.second_time, s.second, s.t)
            return ahead + (s.sigma - s.down) / s.second * (z0_ahead - z0) / 2

        x_next = jax.lax.cond(s.down > 0, correct, lambda: ahead)
        return x_next, Trace(x_next, z0)

    return jax.lax.scan(step, x, rows)


def dpm_2(denoise: SigmaDenoiser, x: Latent, rows: SigmaSteps, noise: Noise, guide: Guide = free) -> tuple[Latent, Trace]:
    """The midpoint method, the midpoint in log sigma (k-diffusion's kin of DPM-Solver-2); second order."""
    return _two_stage(_midpoint, denoise, x, rows, None, guide)


def dpm_2_a(denoise: SigmaDenoiser, x: Latent, rows: SigmaSteps, noise: Noise, guide: Guide = free) -> tuple[Latent, Trace]:
    """`dpm_2` to `down`, then noise of `up`. One draw a step."""
    return _two_stage(_midpoint, denoise, x, rows, noise, guide)


def dpmpp_2s_a(denoise: SigmaDenoiser, x: Latent, rows: SigmaSteps, noise: Noise, guide: Guide = free) -> tuple[Latent, Trace]:
    """DPM-Solver++ (2S) (Lu et al., algorithm 1, r = 1/2) to `down`, then noise of `up`. One draw a step."""
    return _two_stage(_exponential, denoise, x, rows, noise, guide)


def dpmpp_sde(denoise: SigmaDenoiser, x: Latent, rows: SDESteps, noise: Noise, guide: Guide = free) -> tuple[Latent, Trace]:
    """DPM-Solver++ SDE, single step (k-diffusion's, r = 1/2). Two draws a step; rows: `sde_rows`.

    The noise is a Brownian motion in sigma, as the original's tree is: that of the whole step contains that of its first half.
    """
    estimate = guided(denoise, guide)

    def step(x: Latent, s: SDESteps) -> tuple[Latent, Trace]:
        z0 = estimate(x, s.time, s.sigma, s.t)

        def second() -> Latent:
            first = noise(s.t, x)
            middle = toward(z0, x, s.second_down / s.sigma) + s.second_up * first
            z0_middle = estimate(middle, s.second_time, s.second, s.t)
            whole = jnp.sqrt(s.share) * first + jnp.sqrt(1 - s.share) * noise(s.t, x, 1)
            return toward(z0_middle, x, s.down / s.sigma) + s.up * whole

        x_next = jax.lax.cond(s.down > 0, second, lambda: z0)
        return x_next, Trace(x_next, z0)

    return jax.lax.scan(step, x, rows)


def _two_stage(
    finish: Callable[..., Latent], denoise: SigmaDenoiser, x: Latent, rows: SigmaSteps, noise: Noise | None, guide: Guide
) -> tuple[Latent, Trace]:
    """Evaluates at x and halfway to `down`, and lets `finish` take the step with what was found there."""
    estimate = guided(denoise, guide)

    def step(x: Latent, s: SigmaSteps) -> tuple[Latent, Trace]:
        z0 = estimate(x, s.time, s.sigma, s.t)

        def second() -> Latent:
            middle = toward(z0, x, s.second / s.sigma)
            x_next = finish(x, z0, estimate(middle, s.second_time, s.second, s.t), s)
            return x_next if noise is None else x_next + s.up * noise(s.t, x)

        x_next = jax.lax.cond(s.down > 0, second, lambda: z0)
        return x_next, Trace(x_next, z0)

    return jax.lax.scan(step, x, rows)


def _midpoint(x: Latent, z0: Latent, z0_middle: Latent, s: SigmaSteps) -> Latent:
    return toward(z0, x, s.down / s.sigma) + (s.sigma - s.down) / s.second * (z0_middle - z0)


def _exponential(x: Latent, z0: Latent, z0_middle: Latent, s: SigmaSteps) -> Latent:
    return toward(z0_middle, x, s.down / s.sigma)
