"""Winograd's convolution is the convolution."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffbir_jax import InputError
from diffbir_jax.models import conv
from diffbir_jax.models.conv import (
    LARGE,
    SMALL,
    Conv3x3,
    activated,
    enlarged,
    kernel_points,
    prepared,
    winograd,
    winograd_of_points,
)
from diffbir_jax.models.layers import ResBlock
from diffbir_jax.programs import cpu_options


def drawn(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape, np.float32)) for shape in shapes]


def distance(ours, theirs):
    return float(jnp.linalg.norm(ours - theirs) / jnp.linalg.norm(theirs))


def plain(x, affine, kernel, scale):
    form = ("NHWC", "HWIO", "NHWC")
    x = enlarged(activated(x, affine, x.dtype), scale)
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=form)


@pytest.mark.parametrize(("size", "scale"), [((8, 12), 1), ((7, 5), 1), ((1, 2), 1), ((3, 5), 2), ((66, 63), 1), ((33, 32), 2)])
def test_winograd_is_the_convolution_with_its_gradients(size, scale):
    shapes = (2, *size, 6), (2, 6), (2, 6), (3, 3, 6, 5), (5,), (2, scale * size[0], scale * size[1], 5)
    x, *affine, kernel, bias, onto = drawn(*shapes)
    slow = lambda *given: plain(*given[:3], scale) + given[3][None, None, None] + given[4]  # noqa: E731
    out, back = jax.vjp(slow, x, tuple(affine), kernel, bias, onto)
    fast, fast_back = jax.vjp(lambda *given: winograd(scale, *given), x, tuple(affine), kernel, bias, onto)
    for ours, theirs in zip(jax.tree.leaves((fast, fast_back(out))), jax.tree.leaves((out, back(out))), strict=True):
        assert distance(ours, theirs) < (2e-6 if scale * size[0] < 64 else 1e-5)


@pytest.mark.parametrize("how", [SMALL, LARGE])
@pytest.mark.parametrize(("height", "scale"), [(11, 1), (12, 1), (30, 1), (9, 2), (16, 2)])
def test_strips_join_to_the_whole(how, height, scale, monkeypatch):
    shapes = (2, height, 9, 6), (2, 6), (2, 6), (3, 3, 6, 5), (5,), (2, scale * height, scale * 9, 5)
    x, *affine, kernel, bias, onto = drawn(*shapes)
    monkeypatch.setattr(conv, "STRIP", 2000)
    whole = plain(x, tuple(affine), kernel, scale) + bias[None, None, None]
    for more in (None, onto):
        strips = winograd_of_points(x, tuple(affine), kernel_points(kernel, how), bias, more, how, scale)
        assert distance(strips, whole if more is None else whole + more) < 1e-5


@pytest.mark.parametrize(("stride", "padding"), [(1, (1, 1)), (2, (1, 1)), (2, (0, 1))])
@pytest.mark.parametrize("height", [12, 26])
def test_few_channels_and_strides_are_convolved_in_strips(stride, padding, height, monkeypatch):
    x, *affine = drawn((2, height, 10, 6), (2, 6), (2, 6))
    nets = [Conv3x3(5, how, stride=stride, padding=padding) for how in ("xla", "cpu")]
    params = nets[0].init(jax.random.key(0), x)
    monkeypatch.setattr(conv, "STRIP", 1000)
    (out, back), (strips, strips_back) = (jax.vjp(lambda p, x, net=net: net.apply(p, x, tuple(affine)), params, x) for net in nets)
    assert out.shape == (2, height // stride, 10 // stride, 5)
    for ours, theirs in zip(jax.tree.leaves((strips, strips_back(out))), jax.tree.leaves((out, back(out))), strict=True):
        assert distance(ours, theirs) < 1e-6
    assert "scan" in str(jax.make_jaxpr(lambda p, x: nets[1].apply(p, x, tuple(affine)))(params, x))


def test_a_narrowing_block_takes_its_inputs_place(monkeypatch):
    x, to_out = drawn((1, 128, 64, 128), (1, 128, 64, 64))
    nets = [ResBlock(64, groups=8, conv_implementation=how) for how in ("xla", "cpu")]
    params = nets[0].init(jax.random.key(0), x)
    monkeypatch.setattr(conv, "STRIP", 3e4)
    block = lambda net, params, x: net.apply(params, 2.0 * x)  # noqa: E731
    (out, back), (strips, strips_back) = (jax.vjp(partial(block, net), params, x) for net in nets)
    for ours, theirs in zip(jax.tree.leaves((strips, strips_back(to_out))), jax.tree.leaves((out, back(to_out))), strict=True):
        assert distance(ours, theirs) < 2e-5
    made = jax.jit(partial(block, nets[1])).lower(params, x).compile(compiler_options=cpu_options(["autoencoder"]))
    assert made.memory_analysis().temp_size_in_bytes < 1.6 * x.nbytes  # not 2: x, and half as much twice


@pytest.mark.parametrize("scale", [1, 2])
def test_small_maps_of_many_channels_are_convolved_by_columns(scale):
    x, *affine = drawn((2, 7, 5, 64), (2, 64), (2, 64))
    nets = [Conv3x3(72, how, scale) for how in ("xla", "cpu")]
    params = nets[0].init(jax.random.key(0), x)
    (out, back), (columns, columns_back) = (
        jax.vjp(lambda p, x, net=net: net.apply(p, x, tuple(affine)), params, x) for net in nets
    )
    for ours, theirs in zip(jax.tree.leaves((columns, columns_back(out))), jax.tree.leaves((out, back(out))), strict=True):
        assert distance(ours, theirs) < 2e-6
    text = str(jax.make_jaxpr(lambda p, x: nets[1].apply(p, x, tuple(affine)))(params, x))
    assert "conv_general_dilated" not in text


def test_both_implementations_have_the_parameters_of_flax():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 32, 32, 64), np.float32))
    nets = [Conv3x3(64, name) for name in ("xla", "cpu")]
    a, b = (net.init(jax.random.key(0), x) for net in nets)
    assert jax.tree.map(jnp.shape, a) == {"params": {"kernel": (3, 3, 64, 64), "bias": (64,)}} == jax.tree.map(jnp.shape, b)
    np.testing.assert_allclose(nets[0].apply(a, x), nets[1].apply(a, x), atol=1e-4)


class Four(nn.Module):
    """Few channels, many, and two convolutions that stay as they are."""

    def example_inputs(self):
        return (jax.ShapeDtypeStruct((1, 8, 8, 64), jnp.float32),)

    @nn.compact
    def __call__(self, x):
        x = Conv3x3(96, "xla", name="many")(Conv3x3(64, "xla", name="few")(x))
        return Conv3x3(64, "xla", name="small")(nn.Conv(64, (3, 3), 2, name="half")(x))


def test_a_network_is_the_same_with_prepared_kernels(monkeypatch):
    monkeypatch.setattr(conv, "FEW_CHANNELS", 64)
    net, [x] = Four(), drawn((1, 8, 12, 64))
    params = net.init(jax.random.key(0), x)["params"]
    points = prepared(net, params)
    shapes = {name: layer["kernel"].shape for name, layer in points.items()}
    assert shapes == {"few": (36, 64, 64), "many": (16, 64, 96), "half": (3, 3, 96, 64), "small": (3, 3, 64, 64)}
    assert distance(net.apply({"params": points}, x), net.apply({"params": params}, x)) < 1e-5


def test_an_unknown_implementation_is_refused():
    with pytest.raises(InputError, match="'fft'; give one of xla, cpu"):
        Conv3x3(3, "fft").init(jax.random.key(0), jnp.zeros((1, 4, 4, 2)))
