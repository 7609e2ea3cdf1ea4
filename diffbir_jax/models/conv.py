"""The 3x3 convolution, with its implementations. Maps are NHWC."""

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from diffbir_jax.errors import InputError

IMPLEMENTATIONS = ("xla", "cpu")
LEAST_CHANNELS = 64  # below, the transforms cost more than they save
LEAST_PLACES = 32 * 32  # of a map: below, so does the transform of the kernel
STRIP = 8e6  # numbers that a strip's transformed tiles hold at most
FEW_CHANNELS = 640  # up to which kernels are kept as 36 points, beyond as 16

Affine = tuple[Float[Array, "B C"], Float[Array, "B C"]]  # factor and summand of every channel
Kernel = Float[Array, "3 3 C D"]
Points = Float[Array, "P C D"]
Bias = Float[Array, "D"]
Onto = Float[Array, "B H W _"] | None  # a map to whose first D channels the convolution is added


class Transform(NamedTuple):
    """Winograd's minimal filtering F(m x m, 3x3) (Lavin and Gray 2016, sections 4.1 and 4.3) along one axis."""

    kernel: Float[np.ndarray, "N 3"]
    tile: Float[np.ndarray, "N N"]
    output: Float[np.ndarray, "M N"]

    @property
    def size(self) -> int:
        """m, places of an output tile along one axis."""
        return len(self.output)


SMALL = Transform(
    np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
    np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
    np.array([[1, 1, 1, 0], [0, 1, -1, -1]]),
)
_TILE = (
    [4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1],
)  # fmt: skip
LARGE = Transform(
    np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24,
    np.array(_TILE),
    np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]),
)
BY_POINTS = {16: SMALL, 36: LARGE}


class Conv3x3(nn.Module):
    """A 3x3 convolution, zero padded, with the parameters of `nn.Conv`; its kernel may be stored as `prepared` leaves it.

    Attributes:
        channels: of the output.
        implementation: "xla", the backend's own; "cpu": what is fastest on a CPU, from 64 channels on `by_columns` for small maps
            and Winograd's for larger ones, a third to two thirds of the time, forward and backward, with a relative difference of
            about 1e-6 (tiles of 2x2) or 4e-6 (4x4, for maps of 64x64 and more). Else XLA's, large maps in strips
            of rows. A kernel that is `prepared` is Winograd's in any case.
        scale: 2 enlarges x before by nearest neighbour.
        stride: of the output's places.
        padding: rows of zeros before and after, along both axes.

    Raises:
        InputError: the implementation is none of these.
    """

    channels: int
    implementation: str = "xla"
    scale: int = 1
    stride: int = 1
    padding: tuple[int, int] = (1, 1)
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"], affine: Affine | None = None, onto: Onto = None) -> Float[Array, "B H W D"]:
        """The convolution of x, or of silu(x * factor + summand) where `affine` gives them; added to `onto`, if there is one."""
        if self.implementation not in IMPLEMENTATIONS:
            raise InputError(f"conv implementation is {self.implementation!r}; give one of {', '.join(IMPLEMENTATIONS)}")
        kernel = jnp.asarray(self._kernel(x.shape[-1]), self.dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.channels,)).astype(self.dtype)
        if kernel.ndim == 3:
            how = BY_POINTS[len(kernel)]
            return winograd_of_points(x.astype(self.dtype), affine, kernel, bias, onto, how, self.scale)
        many = self.implementation == "cpu" and min(kernel.shape[2:]) >= LEAST_CHANNELS and self.stride == 1
        if many and x.shape[1] * x.shape[2] * self.scale**2 >= LEAST_PLACES:
            return winograd(self.scale, x.astype(self.dtype), affine, kernel, bias, onto)
        if many:
            out = by_columns(enlarged(activated(x, affine, self.dtype), self.scale), kernel)
        elif self.implementation == "cpu" and self.scale == 1:
            out = direct_in_strips(self.stride, self.padding, x.astype(self.dtype), affine, kernel)
        else:
            out = direct(enlarged(activated(x, affine, self.dtype), self.scale), kernel, self.stride, (self.padding, self.padding))
        out += bias[None, None, None]
        return out if onto is None else onto[..., : self.channels] + out

    def _kernel(self, channels: int) -> Any:
        if self.has_variable("params", "kernel"):
            held = self.get_variable("params", "kernel")
            if jnp.ndim(held) == 3:
                return held
        return self.param("kernel", self.kernel_init, (3, 3, channels, self.channels))


def activated(x: Float[Array, "B H W C"], affine: Affine | None, dtype: DTypeLike) -> Float[Array, "B H W C"]:
    """silu(x * factor + summand), or x; computed in float32."""
    if affine is None:
        return x.astype(dtype)
    factor, summand = (a[:, None, None] for a in affine)
    return nn.silu((x * factor + summand).astype(dtype))


def enlarged(x: Float[Array, "B h w C"], scale: int) -> Float[Array, "B H W C"]:
    """Nearest neighbour."""
    return x if scale == 1 else jnp.repeat(jnp.repeat(x, scale, axis=1), scale, axis=2)


def direct(x: Float[Array, "B H W C"], kernel: Kernel, stride: int, padding: Sequence[tuple[int, int]]) -> Float[Array, "B h w D"]:
    """XLA's convolution; rows and columns of zeros before and after."""
    form = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=form)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def direct_in_strips(
    stride: int, padding: tuple[int, int], x: Float[Array, "B H W C"], affine: Affine | None, kernel: Kernel
) -> Float[Array, "B h w D"]:
    """XLA's convolution of a large map a strip of rows at a time: it pads a copy of what it is given."""
    b, before, width, c = x.shape
    height = (before + sum(padding) - 3) // stride + 1
    rows = _strip_rows(height, 1, math.floor(STRIP / (b * stride * width * c)))
    strips = -(-height // rows)

    def one(i: Array | int) -> Array:
        part = _activated_rows(x, affine, stride * rows * i - padding[0], stride * (rows - 1) + 3, stride * rows * strips)
        return direct(part, kernel, stride, ((0, 0), padding))

    if strips == 1:
        return direct(activated(x, affine, x.dtype), kernel, stride, (padding, padding))
    out = jax.lax.map(one, jnp.arange(strips))
    return jnp.moveaxis(out, 0, 1).reshape(b, strips * rows, *out.shape[3:])[:, :height]


def _direct_forward(stride: int, padding: tuple[int, int], *given: Any) -> tuple[Array, tuple[Any, ...]]:
    return direct_in_strips(stride, padding, *given), given


def _direct_backward(stride: int, padding: tuple[int, int], given: tuple[Any, ...], g: Array) -> tuple[Any, ...]:
    whole = lambda x, affine, kernel: direct(activated(x, affine, x.dtype), kernel, stride, (padding, padding))  # noqa: E731
    return jax.vjp(whole, *given)[1](g)


direct_in_strips.defvjp(_direct_forward, _direct_backward)


def by_columns(x: Float[Array, "B H W C"], kernel: Kernel) -> Float[Array, "B H W D"]:
    """The convolution as one matrix product with every place's neighbours (im2col)."""
    b, height, width, c = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    columns = jnp.concatenate([padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=-1)
    return (_barrier(columns.reshape(-1, 9 * c)) @ kernel.reshape(9 * c, -1)).reshape(b, height, width, -1)


def prepared(net: nn.Module, params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters whose 3x3 kernels are transformed once, 16/9 or 4 times as large: for restorations on a CPU.

    Args:
        net: its `Conv3x3` layers of stride 1 are those whose kernels are replaced, from 64 channels on, but for those of its
            smallest maps, where it gains nothing.
        params: its parameters.
    """
    flat, places = dict(flatten_dict(params)), _places(net)
    for path, of in places.items():
        kernel = flat[(*path, "kernel")]
        if min(kernel.shape[2:]) >= LEAST_CHANNELS and of > min(places.values()):
            how = LARGE if kernel.shape[-1] <= FEW_CHANNELS else SMALL
            flat[(*path, "kernel")] = _prepare(kernel, how.size)
    return unflatten_dict(flat)


@functools.lru_cache(maxsize=8)
def _places(net: nn.Module) -> dict[tuple[str, ...], int]:
    """Paths of a network's `Conv3x3` layers of stride 1, and places of their output for the smallest input."""
    found = {}

    def note(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        out = call(*args, **kwargs)
        if isinstance(context.module, Conv3x3) and context.method_name == "__call__" and context.module.stride == 1:
            found[context.module.path] = out.shape[1] * out.shape[2]
        return out

    with nn.intercept_methods(note):
        jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())
    return found


@functools.partial(jax.jit, static_argnums=1)
def _prepare(kernel: Kernel, size: int) -> Points:
    return kernel_points(kernel, SMALL if size == SMALL.size else LARGE)


def _how(x: Array, scale: int) -> Transform:
    return LARGE if x.shape[1] * x.shape[2] * scale**2 >= 4 * LEAST_PLACES else SMALL


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def winograd(
    scale: int, x: Float[Array, "B h w C"], affine: Affine | None, kernel: Kernel, bias: Bias, onto: Onto = None
) -> Float[Array, "B H W D"]:
    """The convolution as 16 or 36 matrix products on tiles of 2x2 or 4x4, the latter for maps of 64x64 places or more.

    What `affine` and `scale` do before it happens a strip at a time, and again in the backward pass: no such map is held.
    """
    how = _how(x, scale)
    x, kernel = _barrier((x, kernel))  # so that kernels are not all transformed at the beginning
    return winograd_of_points(x, affine, kernel_points(kernel, how), bias, onto, how, scale)


def _forward(scale: int, *given: Any) -> tuple[Array, tuple[Any, ...]]:
    onto = None if given[4] is None else given[4][:, :0]  # its shape
    return winograd(scale, *given), (*given[:3], onto)


def _backward(scale: int, saved: tuple[Any, ...], g: Array) -> tuple[Any, ...]:
    """To the map: the convolution by the kernel turned around; to the kernel: each transform's transpose, in reverse."""
    x, affine, kernel, onto = saved
    x, back = jax.vjp(lambda x, affine: enlarged(activated(x, affine, x.dtype), scale), x, affine)
    b, height, width, d = g.shape
    padded = jnp.pad(g, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    rows = _barrier(_mixed(SMALL.output.T, [padded[:, i::2] for i in range(2)]))
    products = _mixed(SMALL.output.T, [rows[:, :, :, j::2] for j in range(2)], 1).reshape(16, -1, d)
    points = _product("pnc,pnd->pcd", _input_points(jnp.pad(x, ((0, 0), (1, 1 + height % 2), (0, 0), (0, 0))), SMALL), products)
    to_kernel = jnp.asarray(np.kron(SMALL.kernel, SMALL.kernel).T, points.dtype) @ points.reshape(16, -1)
    to_x = back(winograd(1, g, None, kernel[::-1, ::-1].swapaxes(2, 3), jnp.zeros(kernel.shape[2], g.dtype)))
    to_onto = None if onto is None else jnp.pad(g, ((0, 0), (0, 0), (0, 0), (0, onto.shape[-1] - d)))
    return *to_x, to_kernel.reshape(kernel.shape), g.sum((0, 1, 2)), to_onto


winograd.defvjp(_forward, _backward)


def winograd_of_points(
    x: Float[Array, "B h w C"], affine: Affine | None, points: Points, bias: Bias, onto: Onto, how: Transform, scale: int
) -> Float[Array, "B H W D"]:
    """`winograd` with a transformed kernel, large maps in strips of rows: what a strip's transforms hold stays in the cache.

    Strips are added in the place of `onto`: a residual block holds two maps and no third.
    """
    b, height, width, _ = x.shape
    grown = (1 + 2 / how.size) ** 2 * b * scale * width * max(points.shape[1:])  # numbers held for a row of the output
    step = how.size // scale if how.size % scale == 0 else how.size
    rows = _strip_rows(height, step, math.floor(STRIP / grown / scale))
    strips = -(-height // rows)

    def one(i: Array | int) -> Array:
        """A strip of the output: of `rows` rows of x, and one above and below."""
        part = _barrier(enlarged(_activated_rows(x, affine, rows * i - 1, rows + 2, rows * strips), scale))
        return _strip(part[:, scale - 1 : part.shape[1] - scale + 1], points, how)

    if strips == 1:
        out = one(0)[:, : scale * height] + bias[None, None, None]
        return out if onto is None else onto[..., : len(bias)] + out
    start, more = onto, bias[None, None, None]
    if onto is None:  # not zeros, which all layers would share, and keep
        start, more = jnp.broadcast_to(more, (b, scale * height, scale * width, len(bias))), 0

    padded = jnp.pad(start, ((0, 0), (0, scale * (strips * rows - height)), (0, 0), (0, 0)))
    added = _in_place(padded, strips, lambda strip, i: strip[..., : len(bias)] + (one(i) + more))
    return added[:, : scale * height, :, : len(bias)]


def _in_place(x: Array, strips: int, change: Callable[[Array, Array], Array]) -> Array:
    """x with the first channels of each strip of rows replaced by what `change` makes of the strip and its number."""
    rows = x.shape[1] // strips

    def put(i: Array, x: Array) -> Array:
        strip = jax.lax.dynamic_slice_in_dim(x, rows * i, rows, 1)
        return jax.lax.dynamic_update_slice(x, change(strip, i), (0, rows * i, 0, 0))

    return jax.lax.fori_loop(0, strips, put, x)


@jax.custom_vjp
def narrowed(x: Float[Array, "B H W C"], last: Array, kernel: Float[Array, "C D"], bias: Bias) -> Float[Array, "B H W _"]:
    """x @ kernel + bias, for D < C. Of a large map it is in the first D channels, the others are what they were: in x's place.

    Args:
        last: [B, H, W, D], all else that is made of x. The product waits for it, or x would have to be copied.
    """
    bias = jnp.where(jnp.isnan(last[0, 0, 0]), jnp.nan, bias)
    whole = lambda x: x @ kernel + bias[None, None, None]  # noqa: E731
    strips = -(-x.size // int(STRIP))
    strips = next(n for n in range(strips, x.shape[1] + 1) if x.shape[1] % n == 0)
    return whole(x) if strips == 1 else _in_place(x, strips, lambda strip, i: whole(strip))


def _narrowed_forward(x: Array, last: Array, kernel: Array, bias: Array) -> tuple[Array, tuple[Array, ...]]:
    return narrowed(x, last, kernel, bias), (x, kernel)


def _narrowed_backward(saved: tuple[Array, ...], g: Array) -> tuple[Array, ...]:
    x, kernel = saved
    g = g[..., : kernel.shape[1]]
    return g @ kernel.T, jnp.zeros_like(g), jnp.einsum("bhwc,bhwd->cd", x, g), g.sum((0, 1, 2))


narrowed.defvjp(_narrowed_forward, _narrowed_backward)


def _strip_rows(height: int, step: int, most: int) -> int:
    """Rows of a strip, a multiple of `step`, about `most`: a divisor of the height, so that no map is padded, unless small."""
    most = max(most - most % step, step)
    if height <= most:
        return height + -height % step
    divisor = max((n for n in range(step, most + 1, step) if height % n == 0), default=0)
    return divisor if 2 * divisor >= most else most


def _activated_rows(x: Array, affine: Affine | None, top: Array | int, count: int, height: int) -> Array:
    """`activated` for `count` rows of x from `top` on; a row outside, of which there may be one above and one below, is zero."""
    at = top + jnp.arange(count)
    part = activated(_rows(x, top, count, height), affine, x.dtype)
    return jnp.where(((at >= 0) & (at < x.shape[1]))[None, :, None, None], part, 0)


def _rows(x: Array, top: Array | int, count: int, height: int) -> Array:
    """`count` rows of x from `top` on; rows outside x are any rows."""
    if x.shape[1] < height:
        x = jnp.pad(x, ((0, 0), (0, height - x.shape[1]), (0, 0), (0, 0)))
    first, last = jnp.maximum(top, 0), jnp.minimum(top + count - 1, x.shape[1] - 1)
    pieces = [(first, 1), (top + 1, count - 2), (last, 1)]
    return jnp.concatenate([jax.lax.dynamic_slice_in_dim(x, start, length, 1) for start, length in pieces], axis=1)


def _strip(x: Array, points: Array, how: Transform) -> Array:
    """Rows of the convolution; x has one more above and below."""
    m, (b, height, width, _) = how.size, x.shape
    wide = -(-width // m)
    products = _product("pnc,pcd->pnd", _input_points(x, how), points)
    products = products.reshape(m + 2, m + 2, b, (height - 2) // m, wide, -1)
    rows = _barrier(_mixed(how.output, products, 3))  # [m+2, b, h, m, w, d]
    out = _mixed(how.output, rows, 4)  # [b, h, m, w, m, d]
    return out.reshape(b, height - 2, wide * m, -1)[:, :, :width]


def _input_points(x: Array, how: Transform) -> Float[Array, "P N C"]:
    """The transformed tiles of x, which has one row more above and below, zero padded on the left and right."""
    m, (_, height, width, c) = how.size, x.shape
    h, w = height - 2, width + -width % m
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 1 + w - width), (0, 0)))
    rows = _barrier(_mixed(how.tile, [x[:, i : i + h - m + 1 : m] for i in range(m + 2)]))
    points = _mixed(how.tile, [rows[..., j : j + w - m + 1 : m, :] for j in range(m + 2)], 1)
    return points.reshape((m + 2) ** 2, -1, c)


def kernel_points(kernel: Kernel, how: Transform) -> Points:
    """The transformed kernel."""
    both = np.kron(how.kernel, how.kernel)
    return (jnp.asarray(both, kernel.dtype) @ kernel.reshape(9, -1)).reshape(-1, *kernel.shape[2:])


def _mixed(matrix: np.ndarray, arrays: Sequence[Array] | Array, axis: int = 0) -> Array:
    """A small matrix times a column of arrays, as the few additions that it holds; the results are stacked along `axis`."""

    def row(factors: list[float]) -> Array:
        terms = [(c, a) for c, a in zip(factors, arrays, strict=True) if c]
        return functools.reduce(operator.add, [a if c == 1 else -a if c == -1 else c * a for c, a in terms])

    return jnp.stack([row(factors) for factors in matrix.astype(float).tolist()], axis)


def _barrier(x: Any) -> Any:
    """Has x written out: fused into what comes next it would be computed again and again."""
    return jax.lax.optimization_barrier(x)


def _product(form: str, a: Array, b: Array) -> Array:
    return jnp.einsum(form, *_barrier((a, b)))
