"""What the metrics' networks are made of: plain functions of arrays and stored weights."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Maps = Float[Array, "_ _ _ _"]  # NHWC; a layer may change every size


def conv(x: Maps, kernel: Float[Array, "kh kw I O"], stride: int = 1, padding: str = "SAME", groups: int = 1) -> Maps:
    """A convolution of NHWC by HWIO; "SAME" is TensorFlow's."""
    dimensions = ("NHWC", "HWIO", "NHWC")
    strides = (stride, stride)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=dimensions, feature_group_count=groups)


def max_pool(x: Maps, size: int, stride: int, padding: str = "VALID") -> Maps:
    """The greatest of each window."""
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, size, size, 1), (1, stride, stride, 1), padding)


def average_pool(x: Maps, size: int) -> Maps:
    """The mean of each window of `size`, side by side; what fits no window is left out."""
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, size, size, 1), (1, size, size, 1), "VALID")
    return total / size**2
