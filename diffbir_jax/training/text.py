"""Contexts of the captions, made by the frozen text tower before the step."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from diffbir_jax.models.text_encoder import TextEncoder
from diffbir_jax.models.tokenizer import Tokenizer
from diffbir_jax.types import Params

KEPT = 10_000  # captions' contexts in memory, 158 KB each for the released tower


class Contexts:
    """Captions to contexts: each is made once and kept, up to KEPT of them; the tower stays on the device.

    Args:
        net: a text tower.
        params: its parameters.
    """

    def __init__(self, net: TextEncoder, params: Params):
        self.net, self.params, self.tokenize = net, jax.device_put(params), Tokenizer(net.context_length)
        self.apply = jax.jit(lambda params, tokens: self.net.apply({"params": params}, tokens))
        self.made: dict[str, np.ndarray] = {}

    def __call__(self, captions: Sequence[str]) -> Float[np.ndarray, "B T D"]:
        """One context a caption, float32."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self.made]
        if new:
            filled = [*new, *[""] * (len(captions) - len(new))]  # one shape, one compilation
            states = np.asarray(self.apply(self.params, self.tokenize(filled)))
            self.made.update(zip(new, states, strict=False))
        contexts = np.stack([self.made[caption] for caption in captions])
        while len(self.made) > KEPT:
            del self.made[next(iter(self.made))]
        return contexts
