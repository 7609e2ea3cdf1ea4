"""The text tower of OpenCLIP as Stable Diffusion 2.1 uses it: tokens to the context of cross-attention (CLIP, section 2.4).

Parameters are named as in transformers' FlaxCLIPTextModel.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

States = Float[Array, "B T D"]


class Embeddings(nn.Module):
    """Tokens and their positions."""

    width: int
    vocab_size: int
    context_length: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Int[Array, "B {self.context_length}"]) -> Float[Array, "B {self.context_length} {self.width}"]:
        def table(rows: int, std: float, name: str) -> nn.Embed:
            return nn.Embed(rows, self.width, embedding_init=nn.initializers.normal(std), dtype=self.dtype, name=name)

        positions = jnp.arange(self.context_length)[None]
        states = table(self.vocab_size, 0.02, "token_embedding")(tokens)
        return states + table(self.context_length, 0.01, "position_embedding")(positions)


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a token sees itself and those before it; the softmax in float32."""

    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: States) -> States:
        b, t, d = x.shape
        dense = partial(nn.Dense, d, dtype=self.dtype)
        q, k, v = (dense(name=f"{name}_proj")(x).reshape(b, t, self.heads, -1) for name in "qkv")
        logits = jnp.einsum("bqhd,bkhd->bhqk", q * q.shape[-1] ** -0.5, k).astype(jnp.float32)
        seen = jnp.tril(jnp.ones((1, 1, t, t), bool))
        weights = nn.softmax(jnp.where(seen, logits, -jnp.inf)).astype(v.dtype)
        return dense(name="out_proj")(jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(b, t, d))


class MLP(nn.Module):
    """Four times the width and back, exact GELU between."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: States) -> States:
        h = nn.gelu(nn.Dense(4 * x.shape[-1], dtype=self.dtype, name="fc1")(x), approximate=False)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="fc2")(h)


class EncoderLayer(nn.Module):
    """Attention, then an MLP, each after a LayerNorm and with a residual."""

    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: States) -> States:
        norm = partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype)
        x += CausalSelfAttention(self.heads, self.dtype, name="self_attn")(norm(name="layer_norm1")(x))
        return x + MLP(self.dtype, name="mlp")(norm(name="layer_norm2")(x))


class Layers(nn.Module):
    """All layers but the last, whose parameters exist (the released files hold them) and are never read."""

    count: int
    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: States) -> States:
        for i in range(self.count if self.is_initializing() else self.count - 1):
            x = EncoderLayer(self.heads, self.dtype, name=str(i))(x)
        return x


class Encoder(nn.Module):
    """The level of names between the tower and its layers."""

    layers: int
    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: States) -> States:
        return Layers(self.layers, self.heads, self.dtype, name="layers")(x)


class TextTower(nn.Module):
    """Embeddings, transformer, final LayerNorm."""

    width: int
    layers: int
    heads: int
    vocab_size: int
    context_length: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Int[Array, "B T"]) -> States:
        x = Embeddings(self.width, self.vocab_size, self.context_length, self.dtype, name="embeddings")(tokens)
        x = Encoder(self.layers, self.heads, self.dtype, name="encoder")(x)
        return nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="final_layer_norm")(x)


class TextEncoder(nn.Module):
    """The text's states after the penultimate layer and the final LayerNorm; ViT-H/14's text tower at the default sizes.

    Attributes:
        width: of the states; a multiple of `heads`.
        layers: how many there are, the unused last one among them.
        heads: of the attention.
        vocab_size: number of tokens.
        context_length: tokens of a text.
        dtype: of the computation; parameters are float32.
    """

    width: int = 1024
    layers: int = 24
    heads: int = 16
    vocab_size: int = 49408
    context_length: int = 77
    dtype: DTypeLike = jnp.float32

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct]:
        """The smallest tokens of `init`, for `jax.eval_shape`."""
        return (jax.ShapeDtypeStruct((1, self.context_length), jnp.int32),)

    @nn.compact
    def __call__(self, tokens: Int[Array, "B {self.context_length}"]) -> Float[Array, "B {self.context_length} {self.width}"]:
        """The context of tokens as `Tokenizer` gives them, float32."""
        sizes = (self.width, self.layers, self.heads, self.vocab_size, self.context_length)
        return TextTower(*sizes, self.dtype, name="text_model")(tokens).astype(jnp.float32)
