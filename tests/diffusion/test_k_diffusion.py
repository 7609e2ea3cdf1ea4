"""The samplers on sigma beside k-diffusion's and diffusers' (tests/data/make_samplers.py)."""

from functools import partial

import jax
import numpy as np
import pytest
from golden import relative, vectors

from diffbir_jax.diffusion.multistep import lms
from diffbir_jax.diffusion.noise import recorded
from diffbir_jax.diffusion.samplers import SAMPLERS
from diffbir_jax.diffusion.schedule import SCALED_LINEAR, ZERO_SNR
from diffbir_jax.diffusion.sigmas import k_levels

SCHEDULES = {"scaled_linear": SCALED_LINEAR, "zero_snr": ZERO_SNR}
THEIRS = vectors("samplers")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_levels_are_the_originals(schedule):
    levels = k_levels(8, SCHEDULES[schedule])
    np.testing.assert_array_equal(levels.time, THEIRS[f"{schedule}.times"])
    np.testing.assert_allclose(levels.sigma, THEIRS[f"{schedule}.sigmas"], rtol=1e-9)


def test_all_but_the_three_with_golden_vectors_are_compared():
    compared = {name.partition(".")[2].partition("_1")[0] for name in THEIRS}
    assert set(SAMPLERS) - compared == {"ddpm", "ddim", "dpm++_2m"}


@pytest.mark.parametrize("name", sorted(k for k in THEIRS if not k.startswith("in.") and not k.endswith(("times", "sigmas"))))
def test_a_sampler_ends_where_theirs_does(name):
    schedule, theirs = name.split(".")
    order = int(theirs[-1]) if theirs.startswith("lms") else None
    sampler = SAMPLERS["lms" if order else theirs]
    rows, z = sampler.rows(8, SCHEDULES[schedule], 0.0), THEIRS["in.z"]
    noise = recorded(rows, THEIRS["in.noise"][:, : max(1, sampler.draws)].reshape(-1, *z.shape))
    sample = partial(lms, order=order) if order else sampler.sample

    def denoise(x, time, sigma):
        mean, var = THEIRS["in.mean"], THEIRS["in.var"]
        return mean + var / (var + sigma**2) * (x - mean) + time / 10000

    ours, _ = jax.jit(lambda z: sample(denoise, sampler.start(z, rows), rows, noise))(z)
    assert relative(name, ours, THEIRS[name]) < 1e-6
