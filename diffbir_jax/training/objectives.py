"""What each network is trained for; see `steps` for what an objective is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree

from diffbir_jax.diffusion.noise import diffuse
from diffbir_jax.diffusion.schedule import Schedule
from diffbir_jax.models.control import ControlNet
from diffbir_jax.training.steps import Mean, Metrics, Objective
from diffbir_jax.types import Context, Image, Latent

LEAST_MSE = 1e-3  # inputs better than this, 30 dB, weigh no more in the relative loss
BUCKETS = 4  # of the timesteps: the loss is reported for each


def mse(image: Image, hq: Image) -> Float[Array, "B"]:
    """Mean squared error of every image."""
    return jnp.mean((image - hq) ** 2, axis=(1, 2, 3))


def psnr(image: Image, hq: Image) -> Float[Array, "B"]:
    """PSNR of every image in dB, range [0, 1]."""
    return -10 * jnp.log10(jnp.maximum(mse(jnp.clip(image, 0, 1), hq), 1e-10))


def normal(keys: Key[Array, "B"], like: Latent) -> Latent:
    """Standard normal numbers of the shape of `like`, an image's from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:]))(keys)


def split(keys: Key[Array, "B"], count: int) -> list[Key[Array, "B"]]:
    """`count` independent keys of every key."""
    return list(jax.vmap(lambda key: jax.random.split(key, count), out_axes=1)(keys))


def autoencoder_objective(net: nn.Module, kl_weight: float) -> Objective:
    """L1 reconstruction plus the weighted KL divergence of the posterior from a standard normal (LDM, section 3.1)."""

    def objective(params, frozen, batch, keys):
        mean, logvar = net.apply({"params": params}, batch["hq"], method="moments")
        z = mean + jnp.exp(0.5 * logvar) * normal(keys, mean)
        image = net.apply({"params": params}, z * net.scaling_factor, method="decode")
        kl = 0.5 * jnp.mean(mean**2 + jnp.exp(logvar) - 1 - logvar)
        l1 = jnp.mean(jnp.abs(image - batch["hq"]))
        metrics = {"l1": Mean.of(l1), "kl": Mean.of(kl), "psnr": Mean.of(psnr(image, batch["hq"]))}
        return l1 + kl_weight * kl, metrics | {"latent_std": Mean.of(jnp.std(mean))}

    return objective


def stage1_objective(net: nn.Module, relative: bool = False) -> Objective:
    """Pixel L2 between the restored and the true image (DiffBIR, equation 1).

    With `relative` an image's error is divided by that of its input: what counts is then the gain in dB, on mild and on strong
    degradations alike, where plain L2 looks at the strong ones alone.
    """

    def objective(params, frozen, batch, keys):
        before = mse(batch["lq"], batch["hq"])
        after = mse(net.apply({"params": params}, batch["lq"]), batch["hq"])
        gain = 10 * jnp.log10((before + 1e-6) / (after + 1e-6))
        loss = jnp.mean(after / (before + LEAST_MSE)) if relative else jnp.mean(after)
        return loss, {"mse": Mean.of(after), "gain_db": Mean.of(gain)}

    return objective


def noised(schedule: Schedule, parameterisation: str, z0: Latent, t: Int[Array, "B"], eps: Latent) -> tuple[Latent, Latent]:
    """z_t, and what a network should predict from it: eps or v."""
    signal, noise = schedule.scales(t[:, None, None, None])
    return signal * z0 + noise * eps, eps if parameterisation == "eps" else signal * eps - noise * z0


def diffusion_loss(
    schedule: Schedule, parameterisation: str, predict: Callable, z0: Latent, keys: Key[Array, "B"], low_steps: float = 0.0
) -> tuple[Float[Array, ""], Metrics]:
    """Mean squared error of the predicted eps or v at a uniformly drawn step (DiffBIR, equation 2), and that of each bucket.

    A share `low_steps` of the steps is drawn from the first quarter.
    """
    steps, (key_t, key_eps) = len(schedule.betas), split(keys, 2)
    t = jax.vmap(lambda key: jax.random.randint(key, (), 0, steps))(key_t)
    if low_steps:
        t = jnp.where(uniform(split(key_t, 1)[0]) < low_steps, t // BUCKETS, t)
    z_t, target = noised(schedule, parameterisation, z0, t, normal(key_eps, z0))
    loss = jnp.mean((predict(z_t, t) - target) ** 2, axis=(1, 2, 3))
    edges = [steps * i // BUCKETS for i in range(BUCKETS + 1)]
    buckets = {
        f"loss_t{low:03d}_{high - 1:03d}": Mean.of(loss, ((low <= t) & (t < high)).astype(jnp.float32))
        for low, high in zip(edges, edges[1:], strict=False)
    }
    return jnp.mean(loss), buckets


def prior_objective(
    unet: nn.Module, autoencoder: nn.Module, schedule: Schedule, parameterisation: str, noises: int = 1
) -> Objective:
    """The latent diffusion prior without text, on clean images' latents, each at `noises` steps with noise of their own."""

    def objective(params, frozen, batch, keys):
        z0 = autoencoder.apply({"params": frozen["autoencoder"]}, batch["hq"], method="encode").repeat(noises, 0)
        keys = repeated(keys, noises)
        return diffusion_loss(schedule, parameterisation, lambda z, t: unet.apply({"params": params}, z, t, None), z0, keys)

    return objective


def repeated(keys: Key[Array, "B"], times: int) -> Key[Array, "N"]:
    """`times` keys of every key, in the order of `repeat`."""
    return jax.vmap(lambda key: jax.random.split(key, times))(keys).reshape(-1)


@dataclass(frozen=True, eq=False)
class Stage2:
    """The control branch learns to steer the frozen prior by the output of stage 1 (DiffBIR, section 3.2); an objective.

    `params` holds what is trained of "control" (and of "unet"), `frozen` the rest, and "empty", the empty prompt's context, where
    the prior takes text.

    Attributes:
        nets: "unet", "autoencoder", "control" (an LAControlNet; a ControlNet sees the image instead of its latent), and "stage1";
            without that the condition is the degraded image itself.
        noises: an image counts at so many steps with noise of their own: what the frozen networks make of it is used so often.
        control_dropped: above 0 the prior learns along, for models too small to have a good one: this share of the images is
            predicted without control, so that the UNet stays a prior.
        captions_dropped: share of the images that get the empty prompt.
        noise_augmentation: the condition's latent is diffused to a step drawn below this; 0: not.
        low_steps: share of the steps that are drawn from the first quarter.
    """

    nets: Mapping[str, nn.Module]
    schedule: Schedule
    parameterisation: str
    noises: int = 1
    control_dropped: float = 0.0
    captions_dropped: float = 1.0
    noise_augmentation: int = 0
    low_steps: float = 0.0

    def __call__(self, params: PyTree, frozen: Mapping[str, Any], batch: Mapping[str, Array], keys: Key[Array, "B"]):
        key_text, key_augment, key_alone, key_loss = split(keys, 4)
        weights = merge(frozen, params)
        z0, cond = jax.lax.stop_gradient(self.conditions(weights, batch))
        if self.noise_augmentation:
            cond = self.augment(cond, key_augment)
        context = self.contexts(weights, batch, key_text)
        z0, cond, context = (x if x is None else x.repeat(self.noises, 0) for x in (z0, cond, context))
        kept = uniform(repeated(key_alone, self.noises)) >= self.control_dropped if self.control_dropped else None
        predict = lambda z_t, t: self.predict(weights, z_t, t, context, cond, kept)  # noqa: E731
        keys = repeated(key_loss, self.noises)
        return diffusion_loss(self.schedule, self.parameterisation, predict, z0, keys, self.low_steps)

    def restore(self, weights: Mapping[str, Any], lq: Image) -> Image:
        """What stage 1 makes of the degraded images; without one, the images."""
        return self.nets["stage1"].apply({"params": weights["stage1"]}, lq) if "stage1" in self.nets else lq

    def conditions(self, weights: Mapping[str, Any], batch: Mapping[str, Array]) -> tuple[Latent, Latent | Image]:
        """The clean images' latents, and the condition."""
        return self.latents(weights, batch["hq"], self.restore(weights, batch["lq"]))

    def latents(self, weights: Mapping[str, Any], hq: Image, reg: Image) -> tuple[Latent, Latent | Image]:
        """The clean images' latents, and the condition: the restored images' latents, or for a ControlNet these images."""
        plain = isinstance(self.nets["control"], ControlNet)
        images = hq if plain else jnp.concatenate([hq, reg])
        latents = self.nets["autoencoder"].apply({"params": weights["autoencoder"]}, images, method="encode")
        return (latents, reg) if plain else tuple(jnp.split(latents, 2))

    def augment(self, cond: Latent, keys: Key[Array, "B"]) -> Latent:
        """The condition diffused to a random step below `noise_augmentation` (DiffBIR v2.1's training)."""
        key_t, key_eps = split(keys, 2)
        t = jax.vmap(lambda key: jax.random.randint(key, (), 0, self.noise_augmentation))(key_t)
        return diffuse(self.schedule, cond, t, normal(key_eps, cond))

    def decode(self, weights: Mapping[str, Any], latent: Latent) -> Image:
        """The autoencoder's image of a latent."""
        return self.nets["autoencoder"].apply({"params": weights["autoencoder"]}, latent, method="decode")

    def contexts(self, weights: Mapping[str, Any], batch: Mapping[str, Array], keys: Key[Array, "B"]) -> Context | None:
        """The captions' contexts, or the empty prompt's for a share `captions_dropped` of the images."""
        if "empty" not in weights:
            return None
        empty = jnp.broadcast_to(weights["empty"], (len(batch["hq"]), *weights["empty"].shape[1:]))
        if "context" not in batch:
            return empty
        dropped = uniform(keys) < self.captions_dropped
        return jnp.where(dropped[:, None, None], empty, batch["context"])

    def predict(self, weights, z_t: Latent, t: Int[Array, "B"], context: Context | None, cond: Array, kept: Array | None = None):
        """The steered prior's prediction, eps or v; the control acts where `kept`."""
        signals = self.nets["control"].apply({"params": weights["control"]}, z_t, t, context, cond)
        if kept is not None:
            signals = tuple(kept[:, None, None, None] * s for s in signals)
        return self.nets["unet"].apply({"params": weights["unet"]}, z_t, t, context, signals)


def merge(frozen: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Every network's parameters: the frozen ones, and the trained ones, by the names of their first level."""
    return {**frozen, **{name: {**frozen.get(name, {}), **tree} for name, tree in params.items()}}


def uniform(keys: Key[Array, "B"]) -> Float[Array, "B"]:
    """A number in [0, 1) of every key."""
    return jax.vmap(jax.random.uniform)(keys)
