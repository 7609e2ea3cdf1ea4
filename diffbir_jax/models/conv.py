"""The 3x3 convolution, with its implementations. Maps are NHWC."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from diffbir_jax.errors import InputError

IMPLEMENTATIONS = ("xla", "winograd")


class Conv3x3(nn.Module):
    """A 3x3 convolution, zero padded, with the parameters of `nn.Conv`.

    Attributes:
        channels: of the output.
        implementation: "xla", the backend's own, or "winograd", on a CPU a third to two thirds of its time, forward and backward,
            from 64 channels on, with a relative difference of about 1e-6.

    Raises:
        InputError: the implementation is none of these.
    """

    channels: int
    implementation: str = "xla"
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W {self.channels}"]:
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.channels))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.channels,))
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        if self.implementation == "winograd":
            return winograd(x, kernel) + bias[None, None, None]
        if self.implementation == "xla":
            form = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=form) + bias[None, None, None]
        raise InputError(f"conv implementation is {self.implementation!r}; give one of {', '.join(IMPLEMENTATIONS)}")


@jax.custom_vjp
def winograd(x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C D"]) -> Float[Array, "B H W D"]:
    """The convolution as 16 matrix products on tiles of 2x2, F(2x2, 3x3) (Lavin and Gray 2016, section 4.1)."""
    b, height, width, _ = x.shape
    products = _product("pnc,pcd->pnd", _input_points(x), _kernel_points(kernel))
    products = products.reshape(4, 4, b, -(-height // 2), -(-width // 2), kernel.shape[-1])
    out = _both_ways(lambda m: [m[0] + m[1] + m[2], m[1] - m[2] - m[3]], _grid(products))
    rows = [jnp.stack(row, axis=3) for row in out]  # [b, h, w, 2, d]
    return jnp.stack(rows, axis=2).reshape(b, height + height % 2, width + width % 2, -1)[:, :height, :width]


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return winograd(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    """To x: the convolution by the kernel turned around; to the kernel: each transform's transpose, in reverse."""
    x, kernel = saved
    b, height, width, d = g.shape
    padded = jnp.pad(g, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    tiles = [[padded[:, i::2, j::2] for j in range(2)] for i in range(2)]
    products = _stacked(_both_ways(lambda m: [m[0], m[0] + m[1], m[0] - m[1], -m[1]], tiles)).reshape(16, -1, d)
    points = _product("pnc,pnd->pcd", _input_points(x), products).reshape(4, 4, *kernel.shape[2:])
    back = _both_ways(lambda u: [u[0] + _half(u, 1), _half(u, -1), _half(u, 1) + u[3]], _grid(points))
    return winograd(g, kernel[::-1, ::-1].swapaxes(2, 3)), jnp.stack([jnp.stack(row) for row in back])


winograd.defvjp(_forward, _backward)


def _input_points(x: Array) -> Float[Array, "16 N C"]:
    _, height, width, c = x.shape
    h, w = height + height % 2, width + width % 2
    x = jnp.pad(x, ((0, 0), (1, 1 + height % 2), (1, 1 + width % 2), (0, 0)))
    tiles = [[x[:, i : i + h : 2, j : j + w : 2] for j in range(4)] for i in range(4)]
    return _stacked(_both_ways(lambda d: [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]], tiles)).reshape(16, -1, c)


def _kernel_points(kernel: Array) -> Float[Array, "16 C D"]:
    points = _both_ways(lambda g: [g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]], _grid(kernel))
    return _stacked(points).reshape(16, *kernel.shape[2:])


def _product(form: str, a: Array, b: Array) -> Array:
    """`jnp.einsum`, its operands written out: fused into the product the transforms would be computed again and again."""
    return jnp.einsum(form, *jax.lax.optimization_barrier((a, b)))


def _half(u: Sequence[Array], sign: int) -> Array:
    return (u[1] + sign * u[2]) / 2


def _both_ways(transform: Callable[[Sequence[Array]], list[Array]], grid: Sequence[Sequence[Array]]) -> list[tuple[Array, ...]]:
    """`transform` along the columns of a grid of arrays, then along its rows."""
    columns = [transform(column) for column in zip(*grid, strict=True)]
    return [tuple(transform(row)) for row in zip(*columns, strict=True)]


def _grid(x: Array) -> list[list[Array]]:
    return [[x[i, j] for j in range(x.shape[1])] for i in range(x.shape[0])]


def _stacked(grid: Sequence[Sequence[Array]]) -> Array:
    return jnp.stack([array for row in grid for array in row])
