"""Data of N(MEAN, VAR), for which the exact solutions are known, and how far the samplers on sigma end from them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.diffusion import multistep, single_step
from diffbir_jax.diffusion.noise import recorded
from diffbir_jax.diffusion.sigmas import Levels, heun_rows, multistep_rows, sde_rows, sigma_rows

MEAN, VAR, FIRST, END, START = 0.3, 0.25, 10.0, 0.1, 5.0
ANCESTRAL, SDE = partial(sigma_rows, eta=1.0), partial(multistep_rows, eta=1.0)
FLOWS = {  # name: (sampler, rows, evaluations a step, order)
    "euler": (single_step.euler, sigma_rows, 1, 1),
    "lms": (multistep.lms, sigma_rows, 1, 1),
    "lms, order 2": (partial(multistep.lms, order=2), sigma_rows, 1, 2),
    "lms, order 3": (partial(multistep.lms, order=3), sigma_rows, 1, 3),
    "heun": (single_step.heun, heun_rows, 2, 2),
    "dpm_2": (single_step.dpm_2, sigma_rows, 2, 2),
    "dpm++_2s, no noise": (single_step.dpmpp_2s_a, sigma_rows, 2, 2),
    "dpm++_2m": (multistep.dpmpp_2m, multistep_rows, 1, 2),
    "dpm++_3m, no noise": (multistep.dpmpp_3m_sde, multistep_rows, 1, 2),  # its first step has order 1
    "unipc": (multistep.unipc, multistep_rows, 1, 3),
}
DIFFUSIONS = {  # name: (sampler, rows, evaluations a step, order, draws a step)
    "euler_a": (single_step.euler_a, ANCESTRAL, 1, 1, 1),
    "dpm_2_a": (single_step.dpm_2_a, ANCESTRAL, 2, 2, 1),
    "dpm++_2s_a": (single_step.dpmpp_2s_a, ANCESTRAL, 2, 2, 1),
    "dpm++_sde": (single_step.dpmpp_sde, sde_rows, 2, 2, 2),
    "dpm++_2m_sde": (multistep.dpmpp_2m_sde, SDE, 1, 2, 1),
    "dpm++_3m_sde": (multistep.dpmpp_3m_sde, SDE, 1, 2, 1),
}


def denoise(x, time, sigma):
    """E[z0 | x]."""
    return MEAN + VAR / (VAR + sigma**2) * (x - MEAN)


def levels(n):
    """Uniform in log sigma."""
    sigma = np.geomspace(FIRST, END, n + 1)
    return Levels(np.arange(n)[::-1], sigma[:-1], float(sigma[-1]))


def flow_error(name, n):
    """Distance to the probability flow's end: it keeps (x - mean) / sqrt(var + sigma^2)."""
    sample, rows, *_ = FLOWS[name]
    s, x = rows(levels(n)), jnp.full((1, 1, 1, 1), START)
    _, trace = jax.jit(lambda x, s: sample(denoise, x, s, lambda t, like: jnp.zeros_like(like)))(x, s)
    exact = MEAN + np.sqrt((VAR + END**2) / (VAR + FIRST**2)) * (START - MEAN)
    return abs(float(trace.z[-1].squeeze()) - exact)


def variance_error(name, n):
    """Distance to the variance of data and noise; all is linear, so it sums what the start and each draw leave, each an image."""
    sample, rows, _, _, draws = DIFFUSIONS[name]
    s, alone = rows(levels(n)), np.eye(1 + n * draws, dtype=np.float32)[..., None, None, None]
    x = jnp.float32(MEAN + np.sqrt(VAR + FIRST**2) * alone[0])
    _, trace = jax.jit(lambda x, s, noise: sample(denoise, x, s, recorded(s, noise)))(x, s, alone[1:])
    return abs(float(jnp.sum((trace.z[-1] - MEAN) ** 2)) - (VAR + END**2))


def order(counts, errors):
    """The slope of log error over log steps."""
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]
