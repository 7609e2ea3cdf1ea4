"""Clean estimates that look real: losses on the decoded image, so that few steps are enough (Sauer et al. 2023, section 3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key, PyTree

from diffbir_jax.diffusion.noise import diffuse
from diffbir_jax.metrics.vgg import vgg_distance
from diffbir_jax.training.objectives import Stage2, merge, normal, psnr, split, uniform
from diffbir_jax.training.steps import Mean
from diffbir_jax.types import Image

POWER_ITERATIONS = 8
PLAIN = 0.25  # share of the images that keep the diffusion loss
FROM_CONDITION = 0.5  # share of the others that start as a restoration does
PERCEPTUAL_SIDE = 64  # pixels of the part that the perceptual distance sees


class SpectralConv(nn.Module):
    """A 4x4 convolution, or 3x3 at stride 1, whose kernel as a matrix has norm 1 (Miyato et al. 2018, section 2).

    The norm is found anew each time by power iteration from a fixed start, so that there is no state.
    """

    channels: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W _"]) -> Float[Array, "B h w {self.channels}"]:
        side = 3 if self.stride == 1 else 4
        kernel = self.param("kernel", nn.initializers.orthogonal(), (side, side, x.shape[-1], self.channels))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.channels,))
        kernel = (kernel / spectral_norm(kernel.reshape(-1, self.channels))).astype(self.dtype)
        strides, dimensions = (self.stride, self.stride), ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x.astype(self.dtype), kernel, strides, "SAME", dimension_numbers=dimensions)
        return x + bias.astype(self.dtype)[None, None, None]


def spectral_norm(matrix: Float[Array, "M N"]) -> Float[Array, ""]:
    """The largest singular value; its vectors are taken as constants."""
    fixed, v = jax.lax.stop_gradient(matrix), jnp.full(matrix.shape[1], matrix.shape[1] ** -0.5)
    for _ in range(POWER_ITERATIONS):
        u = _unit(fixed @ v)
        v = _unit(u @ fixed)
    return u @ matrix @ v


def _unit(x: Float[Array, "N"]) -> Float[Array, "N"]:
    return x / (jnp.linalg.norm(x) + 1e-12)


class Discriminator(nn.Module):
    """How real each patch of an image looks beside stage 1's (PatchGAN; Isola et al. 2017, section 3.2.2)."""

    channels: tuple[int, ...] = (32, 64, 128, 128)
    dtype: DTypeLike = jnp.float32

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The smallest arguments of `init`, for `jax.eval_shape`."""
        return (jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32),) * 2

    @nn.compact
    def __call__(self, image: Image, reg: Image) -> Float[Array, "B h w"]:
        x = jnp.concatenate([2 * image - 1, 2 * (image - reg)], -1)
        for i, c in enumerate(self.channels):
            x = nn.leaky_relu(SpectralConv(c, 2 if i else 1, self.dtype, name=f"conv_{i}")(x), 0.2)
        return SpectralConv(1, 1, self.dtype, name="conv_out")(x)[..., 0].astype(jnp.float32)


@dataclass(frozen=True, eq=False)
class AdversarialStage2(Stage2):
    """Stage 2 whose clean estimates, decoded, are to look real: a hinge loss against a discriminator that learns along, a
    perceptual distance and L1, in adversarial diffusion distillation's manner (Sauer et al. 2023, equations 1 to 3).

    A quarter of the images keep the diffusion loss. Of the others one half are seen as a restoration begins, with stage 1's latent
    diffused, and one half with the clean latent diffused, at the steps below `strength`. The real images are the
    autoencoder's. `params` also holds "discriminator", `frozen` with a perceptual weight "vgg". An evaluation an image: `noises`
    is not used.

    Attributes:
        strength: of the restorations, see `RestoreOptions`.
        pixel, perceptual, adversarial: the losses' weights.
    """

    strength: float = 0.25
    pixel: float = 1.0
    perceptual: float = 1.0
    adversarial: float = 0.1

    def __call__(self, params: PyTree, frozen: Mapping[str, Any], batch: Mapping[str, Array], keys: Key[Array, "B"]):
        key_text, key_alone, key_plain, key_t, key_low, key_start, key_eps, key_part, key_augment = split(keys, 9)
        weights, steps = merge(frozen, params), len(self.schedule.betas)
        reg = jax.lax.stop_gradient(self.restore(weights, batch["lq"]))
        z0, cond = jax.lax.stop_gradient(self.latents(weights, batch["hq"], reg))
        context = self.contexts(weights, batch, key_text)
        plain, begins = uniform(key_plain) < PLAIN, uniform(key_start) < FROM_CONDITION
        kept = uniform(key_alone) >= self.control_dropped * plain if self.control_dropped else None

        drawn = uniform(key_t)
        low = jnp.where(begins, 0.5 + 0.5 * drawn, drawn) * self.strength
        anywhere = jnp.where(uniform(key_low) < self.low_steps, drawn / 4, drawn)
        t = (jnp.where(plain, anywhere, low) * steps).astype(jnp.int32)
        eps, begins = normal(key_eps, z0), (begins & ~plain)[:, None, None, None]
        z_t = diffuse(self.schedule, jnp.where(begins, cond, z0), t, eps)
        signal, noise = self.schedule.scales(t[:, None, None, None])
        seen = self.augment(cond, key_augment) if self.noise_augmentation else cond
        predicted = self.predict(weights, z_t, t, context, seen, kept)
        if self.parameterisation == "eps":
            target, estimate = eps, (z_t - noise * predicted) / signal
        else:
            target, estimate = signal * eps - noise * z0, signal * z_t - noise * predicted

        decode = lambda z: self.nets["autoencoder"].apply({"params": weights["autoencoder"]}, z, method="decode")  # noqa: E731
        image, real = decode(estimate), jax.lax.stop_gradient(decode(z0))
        judge = lambda params, image: self.nets["discriminator"].apply({"params": params}, image, reg).mean((1, 2))  # noqa: E731
        hinge = lambda params, image, sign: jax.nn.relu(  # noqa: E731
            1 - sign * self.nets["discriminator"].apply({"params": params}, image, reg)
        ).mean((1, 2))
        critic, share = params["discriminator"], 1.0 - plain
        losses = {
            "diffusion": (1.0, jnp.mean((predicted - target) ** 2, axis=(1, 2, 3)), 1.0 * plain),
            "pixel": (self.pixel, jnp.mean(jnp.abs(image - real), axis=(1, 2, 3)), share),
            "adversarial": (self.adversarial, -judge(jax.lax.stop_gradient(critic), image), share),
            "discriminator": (1.0, hinge(critic, jax.lax.stop_gradient(image), -1) + hinge(critic, real, 1), share),
        }
        if self.perceptual:
            parts = [part_of(x, key_part) for x in (image, real)]
            losses["perceptual"] = (self.perceptual, vgg_distance(weights["vgg"], *parts), share)
        loss = sum(weight * jnp.mean(values * mask) for weight, values, mask in losses.values())
        metrics = {name: Mean.of(values, mask) for name, (_, values, mask) in losses.items()}
        return loss, metrics | {"psnr": Mean.of(psnr(image, real), share)}


def part_of(image: Image, keys: Key[Array, "B"]) -> Float[Array, "B h w 3"]:
    """A part of every image, at a place drawn for each, PERCEPTUAL_SIDE pixels a side at most."""
    height, width = (min(n, PERCEPTUAL_SIDE) for n in image.shape[1:3])

    def one(image: Array, key: Array) -> Array:
        y, x = (jax.random.randint(k, (), 0, n + 1) for k, n in zip(jax.random.split(key), (image.shape[0] - height,
                image.shape[1] - width), strict=True))  # fmt: skip
        return jax.lax.dynamic_slice(image, (y, x, 0), (height, width, 3))

    return jax.vmap(one)(image, keys)
