"""Validation on a fixed set of images with fixed noise: the numbers of two runs, or of two steps of one, can be compared."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, PyTree
from ml_collections import ConfigDict

from diffbir_jax.diffusion.noise import streams
from diffbir_jax.diffusion.samplers import ddpm
from diffbir_jax.diffusion.schedule import denoiser, spaced
from diffbir_jax.imaging.writing import write_picture
from diffbir_jax.training.networks import Setup
from diffbir_jax.training.objectives import Stage2, merge, noised, normal, psnr, split
from diffbir_jax.training.steps import Objective
from diffbir_jax.types import Image

Batch = Mapping[str, Array]
Result = tuple[dict[str, Float[Array, ""]], Image | None]  # numbers, and the sample grid
Evaluate = Callable[[PyTree, Mapping[str, PyTree], Batch], Result]
TIMESTEPS = (100, 300, 500, 700, 900)  # of 1000, of the fixed-timestep loss
WINDOW, SIGMA = 11, 1.5  # of SSIM


def ssim(a: Image, b: Image) -> Float[Array, "B"]:
    """Structural similarity of every image, mean over pixels and channels (Wang et al. 2004: Gaussian window, K 0.01 and 0.03).

    Images in [0, 1], at least 11 pixels a side; the window stays inside.
    """
    g = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2)
    kernel = jnp.asarray(np.outer(g, g) / g.sum() ** 2, jnp.float32)[:, :, None, None]

    def blur(x: Array) -> Array:
        x = x.transpose(0, 3, 1, 2).reshape(-1, *x.shape[1:3], 1)
        dims = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=dims, precision="highest")

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    values = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return values.reshape(len(a), -1).mean(1)


def make_evaluation(config: ConfigDict, setup: Setup, objective: Objective) -> Evaluate:
    """(params, frozen, batch) -> numbers, and for stage 2 a grid of lq, reg, sample, gt a row."""
    if config.task == "stage1":
        return jax.jit(stage1_evaluation(setup.nets["stage1"]))
    if config.task == "stage2":
        return jax.jit(stage2_evaluation(objective, config.validation.sampling_steps, config.seed))

    def loss(params, frozen, batch):
        keys = jax.random.split(jax.random.key(config.seed), len(batch["hq"]))
        return {"loss": objective(params, frozen, batch, keys)[0]}, None

    return jax.jit(loss)


def stage1_evaluation(net: nn.Module) -> Evaluate:
    """PSNR (dB) and SSIM of the restored images, and of the degraded ones."""

    def evaluate(params, frozen, batch):
        restored = jnp.clip(net.apply({"params": params}, batch["lq"]), 0, 1)
        pairs = {"": restored, "input_": batch["lq"]}
        numbers = {f"{name}psnr": psnr(image, batch["hq"]).mean() for name, image in pairs.items()}
        return numbers | {f"{name}ssim": ssim(image, batch["hq"]).mean() for name, image in pairs.items()}, None

    return evaluate


def stage2_evaluation(stage2: Stage2, steps: int, seed: int) -> Evaluate:
    """The loss at TIMESTEPS, and a grid of samples by spaced DDPM; noise is an image's own and the same every time."""

    def evaluate(params, frozen, batch):
        weights = merge(frozen, params)
        z0, cond = stage2.conditions(weights, batch)
        empty = weights.get("empty")
        context = None if empty is None else jnp.broadcast_to(empty, (len(z0), *empty.shape[1:]))
        key_eps, key_sample = split(jax.random.split(jax.random.key(seed), len(z0)), 2)
        predict = lambda z_t, t: stage2.predict(weights, z_t, t, context, cond)  # noqa: E731

        def loss(t):
            t = jnp.broadcast_to(t, (len(z0),))
            z_t, target = noised(stage2.schedule, stage2.parameterisation, z0, t, normal(key_eps, z0))
            return jnp.mean((predict(z_t, t) - target) ** 2)

        losses = jax.lax.map(loss, jnp.asarray(TIMESTEPS, jnp.int32))
        noise = streams(key_sample)
        denoise = denoiser(predict, stage2.schedule, stage2.parameterisation)
        z, _ = ddpm(denoise, noise(len(stage2.schedule.betas), z0), spaced(steps, stage2.schedule), noise)
        sample = stage2.decode(weights, z)
        grid = jnp.stack([batch["lq"], stage2.restore(weights, batch["lq"]), sample, batch["hq"]], 1)
        numbers = {f"loss_t{t}": losses[i] for i, t in enumerate(TIMESTEPS)} | {"loss": losses.mean()}
        return numbers | {"sample_psnr": psnr(sample, batch["hq"]).mean()}, _sheet(jnp.clip(grid, 0, 1))

    return evaluate


def _sheet(grid: Float[Array, "R C H W 3"]) -> Float[Array, "Y X 3"]:
    """Rows and columns of images as one."""
    rows, columns, height, width, _ = grid.shape
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)


def write_sheet(workdir: Path, step: int, sheet: Any) -> np.ndarray:
    """Writes WORKDIR/samples/STEP.png and returns the sheet."""
    image = np.asarray(sheet, np.float32)
    (workdir / "samples").mkdir(parents=True, exist_ok=True)
    write_picture(workdir / "samples" / f"{step:07d}.png", image)
    return image
