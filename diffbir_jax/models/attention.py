"""Attention: one function with its implementations, and the blocks built of it."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from diffbir_jax.errors import InputError
from diffbir_jax.models.layers import CONV, ZERO

IMPLEMENTATIONS = ("chunked", "cpu", "einsum", "xla", "cudnn", "flash")
CHUNK = 256
CPU_CHUNK = 128  # queries of a head, whose weights for 4096 keys stay in a core's cache
FLASH_TOKENS, FLASH_BLOCK = 4096, 512  # with fewer tokens than so many XLA's own attention is as good on a TPU

Queries = Float[Array, "B T N H"]
Keys = Float[Array, "B S N H"]


def attention(q: Queries, k: Keys, v: Keys, implementation: str = "chunked") -> Queries:
    """softmax(q kᵀ / sqrt(H)) v, the softmax in float32.

    Args:
        q, k, v: [batch, tokens, heads, head size].
        implementation: "einsum" holds all T x S weights; "chunked" computes 256 queries at a time, forward and backward, and is
            "einsum" for up to 256; "cpu" computes 128 queries of one head at a time, in less than half of that time on a CPU, and
            is "einsum" for up to 256 queries or keys; "xla" and "cudnn" are `jax.nn.dot_product_attention`'s ("cudnn": NVIDIA
            GPUs, bfloat16 or float16, head size a multiple of 8 up to 128); "flash" is the Pallas kernel for TPUs from 4096 tokens
            on, of queries and keys, in multiples of 512, and "einsum" below; under several devices it must stand inside
            `jax.shard_map`.

    Raises:
        InputError: the implementation is none of these.
    """
    if implementation == "chunked":
        return _chunked(q, k, v) if q.shape[1] > CHUNK else _einsum(q, k, v)
    if implementation == "cpu":
        return _by_heads(q, k, v) if min(q.shape[1], k.shape[1]) > CHUNK else _einsum(q, k, v)
    if implementation == "einsum":
        return _einsum(q, k, v)
    if implementation == "xla":
        return jax.nn.dot_product_attention(q, k, v, implementation="xla")
    if implementation == "cudnn":
        return _cudnn(q, k, v)
    if implementation == "flash":
        tokens = q.shape[1], k.shape[1]
        fits = min(tokens) >= FLASH_TOKENS and not any(n % FLASH_BLOCK for n in tokens)
        return _flash(q, k, v) if fits else _einsum(q, k, v)
    raise InputError(f"attention implementation is {implementation!r}; give one of {', '.join(IMPLEMENTATIONS)}")


def _einsum(q: Queries, k: Keys, v: Keys) -> Queries:
    logits = jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    return jnp.einsum("bnts,bsnh->btnh", nn.softmax(logits).astype(v.dtype), v)


def _chunked(q: Queries, k: Keys, v: Keys) -> Queries:
    b, t, n, h = q.shape
    chunks = -(-t // CHUNK)
    q = jnp.pad(q, ((0, 0), (0, chunks * CHUNK - t), (0, 0), (0, 0)))
    q = q.reshape(b, chunks, CHUNK, n, h).swapaxes(0, 1)
    out = jax.lax.map(jax.checkpoint(lambda part: _einsum(part, k, v)), q)
    return out.swapaxes(0, 1).reshape(b, chunks * CHUNK, n, h)[:, :t]


def _by_heads(q: Queries, k: Keys, v: Keys) -> Queries:
    b, t, n, h = q.shape
    chunks = -(-t // CPU_CHUNK)
    q = jnp.pad(h**-0.5 * q, ((0, 0), (0, chunks * CPU_CHUNK - t), (0, 0), (0, 0)))
    q = q.swapaxes(1, 2).reshape(b * n, chunks, CPU_CHUNK, h)
    k, v = k.transpose(0, 2, 3, 1).reshape(b * n, h, -1), v.swapaxes(1, 2).reshape(b * n, -1, h)

    def of_head(head: tuple[Array, Array, Array]) -> Array:
        q, k, v = head

        @jax.checkpoint
        def of_chunk(q: Array) -> Array:
            logits = jnp.matmul(q, k, preferred_element_type=jnp.float32)
            weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
            mixed = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
            return (mixed / weights.sum(-1, keepdims=True)).astype(v.dtype)

        return jax.lax.map(of_chunk, q)

    out = jax.lax.map(of_head, jax.lax.optimization_barrier((q, k, v)))
    return out.reshape(b, n, chunks * CPU_CHUNK, h)[:, :, :t].swapaxes(1, 2)


def _cudnn(q: Queries, k: Keys, v: Keys) -> Queries:
    """cuDNN's backward pass wants a multiple of 8 keys: the rest is masked padding."""
    tokens = k.shape[1]
    if tokens % 8 == 0:
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    k, v = (jnp.pad(x, ((0, 0), (0, -tokens % 8), (0, 0), (0, 0))) for x in (k, v))
    lengths = jnp.full(len(k), tokens, jnp.int32)
    return jax.nn.dot_product_attention(q, k, v, key_value_seq_lengths=lengths, implementation="cudnn")


def _flash(q: Queries, k: Keys, v: Keys) -> Queries:
    from jax.experimental.pallas.ops.tpu import flash_attention as pallas

    sizes = {f.name: FLASH_BLOCK for f in dataclasses.fields(pallas.BlockSizes) if f.name.startswith("block_")} | {"block_b": 1}
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    out = pallas.flash_attention(q, k, v, sm_scale=q.shape[-1] ** -0.5, block_sizes=pallas.BlockSizes(**sizes))
    return out.swapaxes(1, 2)


def best_implementation(device: jax.Device, dtype: DTypeLike) -> str:
    """The implementation for a UNet that computes in `dtype` on a device: cuDNN's in bfloat16 from Ampere on, Pallas' on TPUs."""
    if device.platform == "cpu":
        return "cpu"
    if device.platform == "tpu":
        return "flash"
    capable = device.platform == "gpu" and float(getattr(device, "compute_capability", 0)) >= 8
    return "cudnn" if capable and dtype == jnp.bfloat16 else "chunked"


class AttentionBlock(nn.Module):
    """Single-head self-attention over the positions of a map, added to it (the autoencoder's middle)."""

    groups: int = 32
    attention_implementation: str = "chunked"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        b, height, width, c = x.shape
        h = nn.GroupNorm(self.groups, epsilon=1e-6, dtype=self.dtype, name="group_norm")(x).reshape(b, height * width, c)
        q, k, v = (nn.Dense(c, dtype=self.dtype, name=name)(h)[:, :, None] for name in ("query", "key", "value"))
        h = attention(q, k, v, self.attention_implementation)[:, :, 0]
        return x + nn.Dense(c, dtype=self.dtype, name="proj_attn")(h).reshape(x.shape)


class Attention(nn.Module):
    """Multi-head attention of x to `context`, or to itself."""

    head_dim: int
    attention_implementation: str = "chunked"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"], context: Float[Array, "B S D"] | None = None) -> Float[Array, "B T C"]:
        context = x if context is None else context
        dense = partial(nn.Dense, x.shape[-1], dtype=self.dtype)
        q, k, v = (
            dense(use_bias=False, name=name)(source).reshape(*source.shape[:2], -1, self.head_dim)
            for name, source in (("to_q", x), ("to_k", context), ("to_v", context))
        )
        return dense(name="to_out_0")(attention(q, k, v, self.attention_implementation).reshape(x.shape))


class GEGLU(nn.Module):
    """A dense layer gated by the exact GELU of another (Shazeer 2020, GEGLU)."""

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T {self.width}"]:
        h, gate = jnp.split(nn.Dense(2 * self.width, dtype=self.dtype, name="proj")(x), 2, axis=-1)
        return h * nn.gelu(gate, approximate=False)


class FeedForward(nn.Module):
    """GEGLU of four times the width, and back."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
        h = GEGLU(4 * x.shape[-1], dtype=self.dtype, name="net_0")(x)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="net_2")(h)


class TransformerBlock(nn.Module):
    """Self-attention, attention to the context if there is one, feed-forward; each normed before and added."""

    head_dim: int
    attention_implementation: str = "chunked"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"], context: Float[Array, "B S D"] | None) -> Float[Array, "B T C"]:
        norm = partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype)
        heads = partial(Attention, self.head_dim, self.attention_implementation, self.dtype)
        x += heads(name="attn1")(norm(name="norm1")(x))
        if context is not None:
            x += heads(name="attn2")(norm(name="norm2")(x), context)
        return x + FeedForward(self.dtype, name="ff")(norm(name="norm3")(x))


class Transformer2D(nn.Module):
    """One transformer block over the positions of a map, between linear projections, added to it (LDM, appendix E.2.1).

    With `zero_init` the last projection starts at zero, so the block starts as the identity.
    """

    head_dim: int
    groups: int = 32
    zero_init: bool = False
    attention_implementation: str = "chunked"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], context: Float[Array, "B S D"] | None) -> Float[Array, "B H W C"]:
        b, height, width, c = x.shape
        h = nn.GroupNorm(self.groups, epsilon=1e-6, dtype=self.dtype, name="norm")(x).reshape(b, height * width, c)
        h = nn.Dense(c, dtype=self.dtype, name="proj_in")(h)
        h = TransformerBlock(self.head_dim, self.attention_implementation, self.dtype, name="transformer_blocks_0")(h, context)
        h = nn.Dense(c, kernel_init=ZERO if self.zero_init else CONV, dtype=self.dtype, name="proj_out")(h)
        return x + h.reshape(x.shape)
