"""Clean estimates that look real: losses on the decoded image, so that few steps are enough (Sauer et al. 2023, section 3)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from diffbir_jax.diffusion.noise import diffuse
from diffbir_jax.diffusion.schedule import clean
from diffbir_jax.metrics.vgg import vgg_distance
from diffbir_jax.training.objectives import BUCKETS, Stage2, merge, noised, normal, psnr, split, uniform
from diffbir_jax.training.steps import Mean
from diffbir_jax.types import Image, Latent

POWER_ITERATIONS = 8
PLAIN = 0.25  # share of the images that keep the diffusion loss
GOING_ON = 0.5  # share of the others whose loss is taken at a step after the first
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
    """How real each patch of an image looks beside stage 1's (PatchGAN; Isola et al. 2017, section 3.2.2).

    The last convolution may grow: among the small numbers that the others leave, a faint mesh would hardly count.
    """

    channels: tuple[int, ...] = (64, 128, 256, 512)
    dtype: DTypeLike = jnp.float32

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The smallest arguments of `init`, for `jax.eval_shape`."""
        return (jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32),) * 2

    @nn.compact
    def __call__(self, image: Image, reg: Image) -> Float[Array, "B h w"]:
        x = jnp.concatenate([2 * image - 1, 2 * (image - reg)], -1)
        for i, c in enumerate(self.channels):
            x = nn.leaky_relu(SpectralConv(c, 2 if i else 1, self.dtype, name=f"conv_{i}")(x), 0.2)
        return nn.Conv(1, (3, 3), dtype=self.dtype, name="conv_out")(x)[..., 0].astype(jnp.float32)


@dataclass(frozen=True, eq=False)
class AdversarialStage2(Stage2):
    """Stage 2 whose clean estimates, decoded, are to look real: a hinge loss against a discriminator that learns along, a
    perceptual distance and L1, in adversarial diffusion distillation's manner (Sauer et al. 2023, equations 1 to 3).

    A quarter of the images keep the diffusion loss. The others start as a restoration does, with stage 1's latent diffused to a
    step in the upper half of those below `strength`. One half of these is judged there, the other after a step of DDIM to a lower
    one that is drawn: the network sees and mends what its own estimates lead to. The real images are the autoencoder's.

    Where `params` holds parts of "autoencoder", its decoder, that learns along. Then the real images are the clean ones themselves,
    and on the quarter the clean latents are decoded, without a discriminator, so that it stays the encoder's inverse.

    With an adversarial weight `params` also holds "discriminator", with a perceptual one `frozen` "vgg". `noises` is not used.

    Attributes:
        strength: of the restorations, see `RestoreOptions`.
        pixel, perceptual, adversarial: the losses' weights.
    """

    strength: float = 0.25
    pixel: float = 0.0
    perceptual: float = 0.0
    adversarial: float = 0.0

    def __call__(self, params: PyTree, frozen: Mapping[str, Any], batch: Mapping[str, Array], keys: Key[Array, "B"]):
        key_text, key_augment, key_plain, key_alone, key_start, key_on, key_part = split(keys, 7)
        weights = merge(frozen, params)
        reg = jax.lax.stop_gradient(self.restore(weights, batch["lq"]))
        z0, cond = jax.lax.stop_gradient(self.latents(weights, batch["hq"], reg))
        seen = self.augment(cond, key_augment) if self.noise_augmentation else cond
        context, plain = self.contexts(weights, batch, key_text), uniform(key_plain) < PLAIN
        kept = uniform(key_alone) >= self.control_dropped * plain if self.control_dropped else None
        predict = lambda z_t, t: self.predict(weights, z_t, t, context, seen, kept)  # noqa: E731

        t, z_t, eps = self.start(z0, cond, plain, key_start)
        z_t, t = self.go_on(z_t, t, predict, ~plain, key_on)
        _, target = noised(self.schedule, self.parameterisation, z0, t, eps)
        predicted = predict(z_t, t)
        estimate, restored = self.estimate(z_t, t, predicted), 1.0 - plain
        compared = restored
        if "autoencoder" in params:
            estimate, real, compared = jnp.where(plain[:, None, None, None], z0, estimate), batch["hq"], jnp.ones_like(restored)
        else:
            real = jax.lax.stop_gradient(self.decode(weights, z0))
        image = self.decode(weights, estimate)
        losses = {"diffusion": (1.0, jnp.mean((predicted - target) ** 2, axis=(1, 2, 3)), 1.0 * plain)}
        for name, of in self.image_losses(weights, image, real, reg, key_part).items():
            losses[name] = (*of, compared if name in ("pixel", "perceptual") else restored)
        loss = sum(weight * jnp.mean(values * mask) for weight, values, mask in losses.values())
        metrics = {name: Mean.of(values, mask) for name, (_, values, mask) in losses.items()}
        return loss, metrics | {"psnr": Mean.of(psnr(image, real), restored)}

    def start(self, z0: Latent, cond: Latent, plain: Bool[Array, "B"], keys: Key[Array, "B"]):
        """The first step, latents diffused to it, and their noise."""
        key_t, key_low, key_eps = split(keys, 3)
        drawn, eps = uniform(key_t), normal(key_eps, z0)
        anywhere = jnp.where(uniform(key_low) < self.low_steps, drawn / BUCKETS, drawn)
        share = jnp.where(plain, anywhere, (0.5 + 0.5 * drawn) * self.strength)
        t = (share * len(self.schedule.betas)).astype(jnp.int32)
        return t, diffuse(self.schedule, jnp.where(plain[:, None, None, None], z0, cond), t, eps), eps

    def go_on(self, z_t: Latent, t: Int[Array, "B"], predict: Callable, may: Bool[Array, "B"], keys: Key[Array, "B"]):
        """A share GOING_ON of the latents that `may` after a step of DDIM (Song et al. 2021, equation 12), and their steps."""
        drawn = uniform(keys)
        lower, on = (t * drawn / GOING_ON).astype(jnp.int32), may & (drawn < GOING_ON)
        estimate = jax.lax.stop_gradient(self.estimate(z_t, t, predict(z_t, t)))
        signal, noise = self.schedule.scales(t[:, None, None, None])
        after = diffuse(self.schedule, estimate, lower, (z_t - signal * estimate) / noise)
        return jnp.where(on[:, None, None, None], after, z_t), jnp.where(on, lower, t)

    def estimate(self, z_t: Latent, t: Int[Array, "B"], predicted: Latent) -> Latent:
        """The clean latent from a prediction, eps or v."""
        return clean(self.schedule, self.parameterisation, z_t, t[:, None, None, None], predicted)

    def image_losses(self, weights: Mapping[str, Any], image: Image, real: Image, reg: Image, keys: Key[Array, "B"]):
        """Name -> weight and each image's loss. Only the discriminator's own has a gradient for its parameters."""
        losses = {"pixel": (self.pixel, jnp.mean(jnp.abs(image - real), axis=(1, 2, 3)))}
        if self.adversarial:
            judge = lambda params, x: self.nets["discriminator"].apply({"params": params}, x, reg)  # noqa: E731
            critic, fixed = weights["discriminator"], jax.lax.stop_gradient(weights["discriminator"])
            false, true = judge(critic, jax.lax.stop_gradient(image)), judge(critic, real)
            losses["adversarial"] = (self.adversarial, -judge(fixed, image).mean((1, 2)))
            losses["discriminator"] = (1.0, (jax.nn.relu(1 + false) + jax.nn.relu(1 - true)).mean((1, 2)))
        if self.perceptual:
            parts = [part_of(x, keys) for x in (image, real)]
            losses["perceptual"] = (self.perceptual, vgg_distance(weights["vgg"], *parts))
        return losses


def part_of(image: Image, keys: Key[Array, "B"]) -> Float[Array, "B h w 3"]:
    """A part of every image, at a place drawn for each, PERCEPTUAL_SIDE pixels a side at most."""
    height, width = (min(n, PERCEPTUAL_SIDE) for n in image.shape[1:3])

    def one(image: Array, key: Array) -> Array:
        y, x = jax.random.randint(key, (2,), 0, jnp.array([image.shape[0] - height, image.shape[1] - width]) + 1)
        return jax.lax.dynamic_slice(image, (y, x, 0), (height, width, 3))

    return jax.vmap(one)(image, keys)
