"""Samplers on sigma that remember earlier estimates, one evaluation a step. Rows: `multistep_rows`; of `lms`: `sigma_rows`.

Arguments, result and guidance as in single_step.py. In their first steps, wherever the rows begin, the order grows from one. The
equations are those of Lu et al. (2022), "DPM-Solver++", in log-SNR, and of Zhao et al. (2023), "UniPC".
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffbir_jax.diffusion.guidance import Guide, free
from diffbir_jax.diffusion.noise import Noise
from diffbir_jax.diffusion.sigmas import MultistepSteps, SigmaDenoiser, SigmaSteps
from diffbir_jax.diffusion.single_step import Trace, guided, toward
from diffbir_jax.types import Latent

Rows = MultistepSteps


class Known(NamedTuple):
    """What a step knows: its number, row and x; the estimate there, with divided differences in log-SNR (0 while unknown)."""

    i: Int[Array, ""]
    row: MultistepSteps
    x: Latent
    z0: Latent
    slope: Latent
    curvature: Latent
    h_before: Float[Array, ""]


def dpmpp_2m(denoise: SigmaDenoiser, x: Latent, rows: Rows, noise: Noise, guide: Guide = free) -> tuple[Latent, Trace]:
    """DPM-Solver++ (2M) (Lu et al., algorithm 2); second order.

    The sampler `dpm++_2m` takes the steps of DiffBIR's `dpm++_m2`, `edm_dpm++_2m` those of DiffBIR's sampler of that name.
    """
    return _multistep(_second_order, denoise, x, rows, guide)


def dpmpp_2m_sde(
    denoise: SigmaDenoiser, x: Latent, rows: MultistepSteps, noise: Noise, guide: Guide = free
) -> tuple[Latent, Trace]:
    """SDE-DPM-Solver++ (2M) (Lu et al., section 6; k-diffusion's "midpoint").

    One draw a step: over intervals that do not overlap a Brownian tree's, too, are independent.
    """

    def step(now: Known, last: Known) -> tuple[Latent, Latent]:
        x, z = _second_order(now, last)
        return x, z + now.row.up * noise(now.row.t, x)

    return _multistep(step, denoise, x, rows, guide)


def dpmpp_3m_sde(
    denoise: SigmaDenoiser, x: Latent, rows: MultistepSteps, noise: Noise, guide: Guide = free
) -> tuple[Latent, Trace]:
    """SDE-DPM-Solver++ (3M) (k-diffusion's), DiffBIR v2.1's choice. Draws as `dpmpp_2m_sde`."""

    def step(now: Known, last: Known) -> tuple[Latent, Latent]:
        s = now.row
        first = s.h * (now.slope + last.row.h * now.curvature)
        second = s.h**2 * now.curvature
        x = toward(now.z0, now.x, s.down / s.sigma) + s.phi2 * first - s.phi3 * second
        return now.x, x + s.up * noise(s.t, x)

    return _multistep(step, denoise, x, rows, guide)


def unipc(denoise: SigmaDenoiser, x: Latent, rows: Rows, noise: Noise, guide: Guide = free) -> tuple[Latent, Trace]:
    """UniPC of order 2 (Zhao et al., algorithms 1 and 2; B(h) = e^h - 1, as diffusers): UniP-2 is `dpmpp_2m`'s step.

    An estimate first corrects the step that led to it, at no evaluation more, and then predicts the next.
    """

    def step(now: Known, last: Known) -> tuple[Latent, Latent]:
        corrected = jnp.where(now.i > 0, _corrected(now, last), now.x)
        return _second_order(now._replace(x=corrected), last)

    return _multistep(step, denoise, x, rows, guide)


def lms(
    denoise: SigmaDenoiser, x: Latent, rows: SigmaSteps, noise: Noise, guide: Guide = free, order: int = 1
) -> tuple[Latent, Trace]:
    """Linear multistep (Adams-Bashforth on k-diffusion's dx/dsigma): integrates the polynomial through the last slopes.

    Args:
        order: 1, the original's, which is Euler's method, to 4: Gauss's two points are exact for a cubic.
    """
    estimate = guided(denoise, guide)

    def step(carry: tuple, numbered: tuple) -> tuple[tuple, Trace]:
        (x, sigmas, slopes), (i, s) = carry, numbered
        z0 = estimate(x, s.time, s.sigma, s.t)
        sigmas = jnp.roll(sigmas, 1).at[0].set(s.sigma)
        slopes = jnp.roll(slopes, 1, axis=0).at[0].set((x - z0) / s.sigma)
        x = toward(z0, x, s.down / s.sigma)
        for node in (-1 / np.sqrt(3), 1 / np.sqrt(3)):
            at = ((1 - node) * s.sigma + (1 + node) * s.down) / 2
            weights = _lagrange(sigmas, jnp.minimum(i + 1, order), at)
            x += (s.down - s.sigma) / 2 * jnp.tensordot(weights, slopes - slopes[:1], 1)
        return (x, sigmas, slopes), Trace(x, z0)

    carry = (x, jnp.arange(1.0, order + 1), jnp.zeros((order, *x.shape), x.dtype))
    (x, _, _), trace = jax.lax.scan(step, carry, (jnp.arange(len(rows.t)), rows))
    return x, trace


def _lagrange(nodes: Float[Array, "K"], known: Int[Array, ""], at: Float[Array, ""]) -> Float[Array, "K"]:
    """Weights of values at the first `known` nodes in the value at `at` of the polynomial through them; 0 for the others."""
    k = np.arange(len(nodes))
    apart = nodes[:, None] - nodes[None] + jnp.eye(len(nodes))
    factors = (at - nodes[None]) / apart
    matter = (k[:, None] != k[None]) & (k[None] < known)
    return jnp.where(k < known, jnp.prod(jnp.where(matter, factors, 1), axis=1), 0)


def _second_order(now: Known, last: Known) -> tuple[Latent, Latent]:
    """x, and x at the end of the step: the estimate as it will be halfway in log-SNR, held for the whole step."""
    return now.x, toward(now.z0 + now.row.h / 2 * now.slope, now.x, now.row.down / now.row.sigma)


def _corrected(now: Known, last: Known) -> Latent:
    """UniC of order 2, of order 1 after the first step: the last step anew, with what the estimate at its end tells."""
    s = last.row
    ratio = s.down / s.sigma
    of_slope = (s.phi2 + 2 * s.phi3) / (1 + last.h_before / s.h)
    of_change = jnp.where(now.i > 1, s.phi2 - of_slope, (1 - ratio) / 2)
    return toward(last.z0, last.x, ratio) + of_slope * s.h * last.slope + of_change * (now.z0 - last.z0)


def _multistep(
    step: Callable[[Known, Known], tuple[Latent, Latent]], denoise: SigmaDenoiser, x: Latent, rows: MultistepSteps, guide: Guide
) -> tuple[Latent, Trace]:
    """Scans `step`: (now, last) -> x here and at the step's end. The result is brought from the end's sigma to unit variance."""
    estimate = guided(denoise, guide)

    def body(carry: tuple[Latent, Known], numbered: tuple[Array, MultistepSteps]) -> tuple[tuple[Latent, Known], Trace]:
        (x, last), (i, s) = carry, numbered
        z0 = estimate(x, s.time, s.sigma, s.t)
        slope = jnp.where(i > 0, (z0 - last.z0) / last.row.h, 0)
        curvature = jnp.where(i > 1, (slope - last.slope) / (last.row.h + last.h_before), 0)
        now = Known(i, s, x, z0, slope, curvature, last.row.h)
        x_here, x_next = step(now, last)
        return (x_next, now._replace(x=x_here)), Trace(x_next, z0)

    ones = jax.tree.map(lambda column: jnp.ones((), column.dtype), rows)  # of no step: they keep what is not used finite
    before = Known(jnp.int32(-1), ones, x, x, x, x, jnp.float32(1))
    (x, _), trace = jax.lax.scan(body, (x, before), (jnp.arange(len(rows.t)), rows))
    return x / jnp.sqrt(1 + jnp.asarray(rows.down)[-1] ** 2), trace
