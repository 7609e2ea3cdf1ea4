"""Latent image guidance, which moves a sample toward the stage-1 image, and classifier-free guidance, toward the text."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Num

from diffbir_jax.diffusion.schedule import Predict
from diffbir_jax.types import Image, Latent

Guide = Callable[[Latent, Int[Array, ""]], Latent]  # (z0, t) -> the shift of z0
Weights = Float[Array, "B H W 1"]
Window = tuple[ArrayLike, ArrayLike]  # (stop, start): active where stop < t + 1 < start
ALWAYS: Window = (-1, 1001)
PATCH = 2


def _in(window: Window, t: ArrayLike) -> ArrayLike:
    stop, start = window
    return (stop < t + 1) & (t + 1 < start)


def free(z0: Latent, t: Int[Array, ""]) -> Latent:
    """No guidance."""
    return jnp.zeros_like(z0)


def _descent(distance: Callable[[Latent], Float[Array, ""]], scale: ArrayLike, repeats: int, window: Window) -> Guide:
    """`repeats` moves of z0 by -scale * gradient of `distance`; their sum, 0 outside the window (where nothing is computed)."""

    def moves(z0: Latent) -> Latent:
        moved = jax.lax.fori_loop(0, repeats, lambda _, z: z - scale * jax.grad(distance)(z), z0)
        return moved - z0

    def guide(z0: Latent, t: Int[Array, ""]) -> Latent:
        active = _in(window, t) & (jnp.asarray(scale) != 0)
        return jax.lax.cond(active, moves, jnp.zeros_like, z0)

    return guide


def _mean_square(x: Float[Array, "B H W C"], weights: Weights | None) -> Float[Array, ""]:
    """Mean over an image's numbers, summed over the batch, so that an image's gradient does not depend on the others."""
    square = x**2 if weights is None else weights * x**2
    return jnp.sum(jnp.mean(square, axis=(1, 2, 3)))


def latent_guidance(
    target: Latent, scale: ArrayLike, repeats: int = 5, window: Window = ALWAYS, weights: Weights | None = None
) -> Guide:
    """Guidance in latent space (DiffBIR v1, algorithm 1): D = mean (z0 - target)^2, or mean weights (z0 - target)^2.

    Args:
        target: the encoding of I_reg.
        scale: s, may be traced; 0 for the most realistic result, larger for one closer to I_reg. Half the count of a latent's
            numbers moves onto the target, so that no more is taken: twice as much would move further away with every step.
        repeats: moves a step, each from where the last ended.
        window: (stop, start), may be traced: active where stop < t + 1 < start.
        weights: from `region_weights`, of the image's size; a latent pixel takes the mean over those that it stands for.
    """
    if weights is not None:
        weights = area_means(weights, weights.shape[1] // target.shape[1])
    scale = jnp.minimum(scale, target[0].size / 2)
    return _descent(lambda z0: _mean_square(z0 - target, weights), scale, repeats, window)


def rgb_guidance(
    decode: Callable[[Latent], Image],
    target: Image,
    scale: ArrayLike,
    repeats: int = 5,
    window: Window = ALWAYS,
    weights: Weights | None = None,
) -> Guide:
    """Guidance in pixels, its gradient taken through the decoder: D = mean of the squared difference on the scale [-1, 1].

    Args:
        decode: latent -> image, nominally in [0, 1] but not clipped there, which would stop the gradient.
        target: I_reg in [0, 1].
        scale: as in `latent_guidance`, likewise `repeats` and `window`.
        weights: from `region_weights`, or None for 1 everywhere.
    """
    return _descent(lambda z0: _mean_square(2 * (decode(z0) - target), weights), scale, repeats, window)


def region_weights(reg: Image) -> Weights:
    """Weights of the region-adaptive guidance: near 1 in flat areas, which are held to I_reg, near 0 in texture, which is free.

    One minus tanh of Sobel's gradient magnitude of the luma, summed over patches of 2 x 2 (DiffBIR, ECCV 2024, section 3.4).

    Args:
        reg: I_reg in [0, 1].
    """
    luma = reg @ jnp.array([0.2989, 0.5870, 0.1140])
    top, left = (-n % PATCH for n in luma.shape[1:])
    gradient = jnp.pad(_sobel(luma), ((0, 0), (0, top), (0, left)))
    patches = 1 - jnp.tanh(PATCH**2 * area_means(gradient[..., None], PATCH))
    return patches.repeat(PATCH, 1).repeat(PATCH, 2)[:, : luma.shape[1], : luma.shape[2]]


def area_means(x: Float[Array, "B H W C"], factor: int) -> Float[Array, "B h w C"]:
    """Means over squares of `factor` pixels, which divides both sides."""
    b, height, width, c = x.shape
    return x.reshape(b, height // factor, factor, width // factor, factor, c).mean((2, 4))


def _sobel(x: Float[Array, "B H W"]) -> Float[Array, "B H W"]:
    """Magnitude of Sobel's gradient, the border repeated."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]
    columns = x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]
    return jnp.hypot(rows[:, :, 2:] - rows[:, :, :-2], columns[:, 2:] - columns[:, :-2])


def cfg(predict: Callable[..., Any], cond: Any, uncond: Any, w: ArrayLike, rescaled: bool = False) -> Callable[..., Any]:
    """Classifier-free guidance: uncond + w (cond - uncond), both from one call on twice the batch.

    Args:
        predict: (z_t, t, conditions) -> eps or v, or as in reuse.py: what it keeps is of both.
        cond: the conditions, any tree of arrays with B first; `uncond` is the same tree for the negative prompt.
        w: the scale, may be traced; 1 gives `cond` alone.
        rescaled: let w grow along the way: 1 + w (1 - cos(pi ((1000 - t) / 1000)^5)) / 2.
    """
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), cond, uncond)

    def guided(predicted: Array, t: Num[Array, "B"]) -> Latent:
        with_text, without = jnp.split(predicted, 2)
        if not rescaled:
            return without + w * (with_text - without)
        w_t = 1 + w * (1 - jnp.cos(jnp.pi * ((1000 - t) / 1000) ** 5)) / 2
        return without + w_t[:, None, None, None] * (with_text - without)

    def predict_guided(z_t: Latent, t: Num[Array, "B"], *kept: Any) -> Any:
        predicted = predict(jnp.concatenate([z_t, z_t]), jnp.concatenate([t, t]), both, *kept)
        return (guided(predicted[0], t), predicted[1]) if isinstance(predicted, tuple) else guided(predicted, t)

    return predict_guided


def within(window: Window, inside: Predict, outside: Predict) -> Predict:
    """`inside` at the window's steps, else `outside`: cfg in an interval (Kynkäänniemi et al. 2024, eq. 3), which elsewhere costs
    no second evaluation.

    Args:
        window: (stop, start), may be traced: `inside` where stop < t + 1 < start.
    """

    def predict(z_t: Latent, t: Num[Array, "B"]) -> Latent:
        return jax.lax.cond(_in(window, t[0]), inside, outside, z_t, t)

    return predict
