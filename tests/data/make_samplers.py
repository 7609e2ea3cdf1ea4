"""Makes samplers.safetensors: k-diffusion's and diffusers' samplers on a known denoiser, with DiffBIR's sigmas, in float64.

python tests/data/make_samplers.py, with k-diffusion 0.1.1, torch 2.13 and diffusers 0.39. Per schedule: `SCHEDULE.sigmas`,
`SCHEDULE.times`, and `SCHEDULE.NAME`, what NAME makes of `in.z` (unit variance) with `in.noise` (step, draw).
The denoiser is that of Gaussian data, moved a little with the step that the network sees, so that a wrong step shows:
z0 = mean + var / (var + sigma^2) (x - mean) + time / 10000.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler
from k_diffusion import sampling
from safetensors.numpy import save_file

N, SHAPE = 8, (1, 4, 4, 2)
BETAS = np.linspace(np.sqrt(0.00085), np.sqrt(0.0120), 1000) ** 2


def zero_snr(abar):
    """Lin et al. 2024, algorithm 1."""
    root = np.sqrt(abar)
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


class Brownian:
    """The noise of one sampler: of a step's first part the first draw, of the whole step what Brownian motion makes of both."""

    def __init__(self, noise):
        self.noise, self.step, self.before = noise, -1, (None, None)

    def __call__(self, sigma, to):
        if sigma != self.before[0]:
            self.step, self.before = self.step + 1, (sigma, to)
            return self.noise[self.step, 0]
        share = (sigma - self.before[1]) / (sigma - to)
        return share.sqrt() * self.noise[self.step, 0] + (1 - share).sqrt() * self.noise[self.step, 1]


def k_diffusion(data, times, sigmas):
    table, steps = torch.tensor(np.append(sigmas, 0)), torch.tensor(np.append(times, 0))

    def denoise(x, sigma):
        time = steps[(sigma[0] - table).abs().argmin()]
        return data["mean"] + data["var"] / (data["var"] + sigma[0] ** 2) * (x - data["mean"]) + time / 10000

    x = data["z"] * (1 + table[0] ** 2).sqrt()
    for name, sample in {
        "euler": sampling.sample_euler, "heun": sampling.sample_heun, "dpm_2": sampling.sample_dpm_2,
        **{f"lms_{order}": partial(sampling.sample_lms, order=order) for order in (1, 2, 3, 4)},
        "edm_dpm++_2m": sampling.sample_dpmpp_2m,
    }.items():  # fmt: skip
        yield name, sample(denoise, x, table, disable=True)
    for name, sample in {
        "euler_a": sampling.sample_euler_ancestral, "dpm_2_a": sampling.sample_dpm_2_ancestral,
        "dpm++_2s_a": sampling.sample_dpmpp_2s_ancestral, "dpm++_sde": sampling.sample_dpmpp_sde,
        "dpm++_2m_sde": sampling.sample_dpmpp_2m_sde, "dpm++_3m_sde": sampling.sample_dpmpp_3m_sde,
    }.items():  # fmt: skip
        yield name, sample(denoise, x, table, disable=True, noise_sampler=Brownian(data["noise"]))


def unipc(data):
    scheduler = UniPCMultistepScheduler(trained_betas=BETAS, prediction_type="sample")
    scheduler.set_timesteps(N)
    z = data["z"].moveaxis(-1, 1)
    mean, var = data["mean"].moveaxis(-1, 1), data["var"].moveaxis(-1, 1)
    for time, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        x = z * (1 + sigma**2).sqrt()
        z = scheduler.step(mean + var / (var + sigma**2) * (x - mean) + time / 10000, time, z).prev_sample
    return z.moveaxis(1, -1)


def main():
    rng, abar = np.random.default_rng(0), np.cumprod(1 - BETAS)
    inputs = {"z": rng.standard_normal(SHAPE), "noise": rng.standard_normal((N, 2, *SHAPE))}
    inputs |= {"mean": rng.uniform(-1, 1, SHAPE), "var": rng.uniform(0.05, 1, SHAPE)}
    inputs = {name: np.float32(x) for name, x in inputs.items()}
    data = {name: torch.tensor(x, dtype=torch.float64) for name, x in inputs.items()}
    out = {f"in.{name}": x for name, x in inputs.items()} | {"scaled_linear.unipc": unipc(data).numpy()}
    times = np.linspace(999, 0, N, endpoint=False).astype(int)
    first = abar[times].copy(), zero_snr(abar)[times].copy()
    first[0][0] = first[1][0] = 1e-8  # DiffBIR's stand-in for no signal
    for schedule, kept in zip(("scaled_linear", "zero_snr"), first, strict=True):
        sigmas = ((1 - kept) / kept) ** 0.5
        out |= {f"{schedule}.times": times, f"{schedule}.sigmas": sigmas}
        out |= {f"{schedule}.{name}": x.numpy() for name, x in k_diffusion(data, times, sigmas)}
    floats = {name: x if name.endswith(("sigmas", "times")) else np.float32(x) for name, x in out.items()}
    save_file({name: np.ascontiguousarray(x) for name, x in floats.items()}, Path(__file__).parent / "samplers.safetensors")


if __name__ == "__main__":
    main()
