"""The objectives, and the pure training step that all of them share.

An objective is a function (params, frozen, batch, key) -> (loss, metrics); `frozen` maps network names to parameters that
receive no gradient.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Key, PyTree

from diffbir_jax.diffusion.schedule import Schedule
from diffbir_jax.training.state import TrainState
from diffbir_jax.types import Image, Latent

Metrics = dict[str, Float[Array, ""]]
Objective = Callable[[PyTree, Mapping[str, PyTree], Mapping[str, Array], Key[Array, ""]], tuple[Float[Array, ""], Metrics]]
LEAST_MSE = 1e-3  # inputs better than this, 30 dB, weigh no more in the relative loss


def psnr(a: Image, b: Image) -> Float[Array, ""]:
    """Mean PSNR in dB over the batch, range [0, 1]."""
    mse = jnp.mean((jnp.clip(a, 0, 1) - b) ** 2, axis=(1, 2, 3))
    return jnp.mean(-10 * jnp.log10(jnp.maximum(mse, 1e-10)))


def autoencoder_objective(net: nn.Module, kl_weight: float) -> Objective:
    """L1 reconstruction plus the weighted KL divergence of the posterior from a standard normal (LDM, section 3.1)."""

    def objective(params, frozen, batch, key):
        mean, logvar = net.apply({"params": params}, batch["hq"], method="moments")
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)
        image = net.apply({"params": params}, z * net.scaling_factor, method="decode")
        kl = 0.5 * jnp.mean(mean**2 + jnp.exp(logvar) - 1 - logvar)
        l1 = jnp.mean(jnp.abs(image - batch["hq"]))
        return l1 + kl_weight * kl, {"l1": l1, "kl": kl, "psnr": psnr(image, batch["hq"]), "latent_std": jnp.std(mean)}

    return objective


def stage1_objective(net: nn.Module, relative: bool = False) -> Objective:
    """Pixel L2 between the restored and the true image (DiffBIR, equation 1).

    With `relative` an image's error is divided by that of its input: what counts is then the gain in dB, on mild and on strong
    degradations alike, where plain L2 looks at the strong ones alone.
    """

    def mse(image: Image, hq: Image) -> Float[Array, "B"]:
        return jnp.mean((image - hq) ** 2, axis=(1, 2, 3))

    def objective(params, frozen, batch, key):
        before = mse(batch["lq"], batch["hq"])
        after = mse(net.apply({"params": params}, batch["lq"]), batch["hq"])
        gain = jnp.mean(10 * jnp.log10((before + 1e-6) / (after + 1e-6)))
        loss = jnp.mean(after / (before + LEAST_MSE)) if relative else jnp.mean(after)
        return loss, {"mse": jnp.mean(after), "gain_db": gain}

    return objective


def diffusion_loss(schedule: Schedule, parameterisation: str, predict: Callable, z0: Latent, key: Key[Array, ""]):
    """Mean squared error of the predicted eps or v at a uniformly drawn step (DiffBIR, equation 2)."""
    key_t, key_eps = jax.random.split(key)
    t = jax.random.randint(key_t, (len(z0),), 0, len(schedule.betas))
    eps = jax.random.normal(key_eps, z0.shape)
    signal, noise = schedule.scales(t[:, None, None, None])
    z_t = signal * z0 + noise * eps
    target = eps if parameterisation == "eps" else signal * eps - noise * z0
    loss = jnp.mean((predict(z_t, t) - target) ** 2, axis=(1, 2, 3))
    late = (t < len(schedule.betas) // 4).astype(jnp.float32)
    return jnp.mean(loss), {"loss_t_below_250": jnp.sum(loss * late) / jnp.maximum(jnp.sum(late), 1)}


def prior_objective(
    unet: nn.Module, autoencoder: nn.Module, schedule: Schedule, parameterisation: str, noises: int = 1
) -> Objective:
    """The latent diffusion prior without text, on clean images' latents, each at `noises` steps with noise of their own."""

    def objective(params, frozen, batch, key):
        z0 = autoencoder.apply({"params": frozen["autoencoder"]}, batch["hq"], method="encode").repeat(noises, 0)
        return diffusion_loss(schedule, parameterisation, lambda z, t: unet.apply({"params": params}, z, t, None), z0, key)

    return objective


def stage2_objective(
    control: nn.Module,
    unet: nn.Module,
    autoencoder: nn.Module,
    stage1: nn.Module,
    schedule: Schedule,
    parameterisation: str,
    noises: int = 1,
    dropped: float = 0.0,
) -> Objective:
    """The control branch alone learns; its condition is the encoded output of stage 1 (DiffBIR, section 3.2).

    Each image counts at `noises` steps with noise of their own: what the frozen networks make of it is used so often.

    With `dropped` above 0 the prior learns along, for models too small to have a good one: `params` are {"control", "unet"}, and
    this share of the images is predicted without control, so that the UNet stays a prior.
    """

    def objective(params, frozen, batch, key):
        params = {**frozen, **(params if dropped else {"control": params})}
        key, key_drop = jax.random.split(key)
        reg = stage1.apply({"params": params["stage1"]}, batch["lq"])
        both = autoencoder.apply({"params": params["autoencoder"]}, jnp.concatenate([batch["hq"], reg]), method="encode")
        z0, cond_latent = (latent.repeat(noises, 0) for latent in jnp.split(jax.lax.stop_gradient(both), 2))
        kept = (jax.random.uniform(key_drop, (len(z0), 1, 1, 1)) >= dropped).astype(jnp.float32)

        def predict(z_t, t):
            signals = control.apply({"params": params["control"]}, z_t, t, None, cond_latent)
            return unet.apply({"params": params["unet"]}, z_t, t, None, tuple(kept * s for s in signals) if dropped else signals)

        loss, metrics = diffusion_loss(schedule, parameterisation, predict, z0, key)
        return loss, metrics | {"cond_distance": jnp.mean((z0 - cond_latent) ** 2)}

    return objective


def make_step(objective: Objective, optimizer: optax.GradientTransformation, ema: float, mesh: Mesh) -> Callable:
    """The jitted step (state, frozen, batch, key) -> (state, metrics).

    The batch is split over the mesh's "data" axis; gradients are averaged by one collective, in float32. The state's buffers are
    donated. The moving average warms up as (1 + step) / (10 + step), at most `ema`.
    """

    def local(state, frozen, batch, key):
        key = jax.random.fold_in(jax.random.fold_in(key, state.step), jax.lax.axis_index("data"))
        (loss, metrics), grads = jax.value_and_grad(objective, has_aux=True)(state.params, frozen, batch, key)
        grads, metrics = jax.lax.pmean((grads, metrics | {"loss": loss}), "data")
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(ema, (1 + state.step) / (10 + state.step))
        average = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, state.ema, params)
        metrics["gradient_norm"] = optax.tree.norm(grads)
        return TrainState(state.step + 1, params, average, opt_state), metrics

    sharded = jax.shard_map(local, mesh=mesh, in_specs=(P(), P(), P("data"), P()), out_specs=P(), check_vma=False)
    return jax.jit(sharded, donate_argnums=0)
