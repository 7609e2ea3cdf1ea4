"""What lies deep in a network, kept between neighbouring evaluations of a sampler's loop (DeepCache, Ma et al. 2024).

Features deep in a UNet change little from one step to the next. A full evaluation keeps them, and the cheap ones that follow take
them from there. What is kept lives in references (`jax.new_ref`) that the loop carries along, so that samplers need not know of it.
"""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Num

from diffbir_jax.diffusion.schedule import Predict
from diffbir_jax.types import Latent


def clock() -> Any:
    """A reference that counts evaluations."""
    return jax.new_ref(jnp.int32(0))


def reusing(
    full: Callable[..., tuple[Latent, Any]], cheap: Callable[..., Latent], every: ArrayLike, clock: Any, like: Latent
) -> Predict:
    """`full` at every so many evaluations, `cheap` between (Ma et al. 2024, section 3.3, uniform intervals).

    Args:
        full: (z_t, t) -> eps or v, and what is kept, any tree of arrays.
        cheap: (z_t, t, kept) -> eps or v.
        every: how many evaluations of the clock what was kept may serve, its own among them; may be traced; 1: `full` always.
        clock: of a loop, `clock()`; ticks here. Several that share it, of which one is called at a time, each keep their own.
        like: as z_t.
    """
    kept = jax.tree.map(
        lambda x: jax.new_ref(jnp.zeros(x.shape, x.dtype)), jax.eval_shape(full, like, jnp.zeros(like.shape[:1], jnp.int32))[1]
    )
    made = jax.new_ref(jnp.int32(-1))

    def predict(z_t: Latent, t: Num[Array, "B"]) -> Latent:
        held, now = jax.tree.map(lambda ref: ref[...], kept), clock[...]
        fresh = (made[...] < 0) | (now - made[...] >= every)
        prediction, held = jax.lax.cond(fresh, lambda: full(z_t, t), lambda: (cheap(z_t, t, held), held))
        jax.tree.map(lambda ref, x: operator.setitem(ref, ..., x), kept, held)
        made[...], clock[...] = jnp.where(fresh, now, made[...]), now + 1
        return prediction

    return predict
