import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import relative, vectors

from diffbir_jax.errors import InputError
from diffbir_jax.models.swinir import SwinIR, pixel_unshuffle
from diffbir_jax.models.windows import merge, partition
from diffbir_jax.weights.tables.swinir import buffers, rows
from diffbir_jax.weights.torch_format import from_torch, to_torch

DATA = Path(__file__).parent.parent / "data"
NET = SwinIR(embed_dim=24, depths=(2, 2), heads=(2, 2))
SMALL = SwinIR(embed_dim=8, depths=(1,), heads=(2,), window=4, unshuffle=2, features=8)


def shapes(net):
    return jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]


@pytest.fixture(scope="module")
def golden():
    tensors = vectors("swinir")
    state = {k.removeprefix("params."): v for k, v in tensors.items() if k.startswith("params.")}
    params, unused = from_torch(state, rows(NET), shapes(NET))
    assert unused == []
    return tensors, state, params


def test_the_image_is_the_originals(golden):
    tensors, _, params = golden
    reg = jax.jit(NET.apply)({"params": params}, jnp.asarray(tensors["in.lq"].transpose(0, 2, 3, 1)))
    want = tensors["out.reg"].transpose(0, 2, 3, 1)
    assert relative("swinir", reg, want) < 1e-5


def test_weights_survive_the_round_trip(golden):
    _, state, params = golden
    back = to_torch(params, rows(NET))
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[k], v) for k, v in state.items())


def test_buffers_are_the_originals(golden):
    tensors, _, _ = golden
    found = buffers(NET)
    assert len(found) == 4 + 2
    for key, value in found.items():
        name = key.rpartition(".")[2]
        assert np.array_equal(value, tensors[f"buffer.{name}"])
        assert value.dtype == {"attn_mask": np.float32, "relative_position_index": np.int64}[name]


def test_every_released_key_has_its_place():
    """With or without the buffers, whose names and shapes are the released ones too."""
    net, manifest = SwinIR(), json.loads((DATA / "manifests" / "swinir.json").read_text())
    state = {k: np.broadcast_to(np.int8(0), shape) for k, shape in manifest.items()}
    _, unused = from_torch(state, rows(net), shapes(net))
    assert {k: list(v.shape) for k, v in buffers(net).items()} == {k: manifest[k] for k in unused}


def test_a_residual_network_starts_as_the_identity():
    lq = jax.random.uniform(jax.random.key(0), (2, 8, 16, 3))
    net = SMALL.clone(residual=True)
    assert jnp.array_equal(jax.jit(lambda key: net.init_with_output(key, lq)[0])(jax.random.key(1)), lq)


@pytest.mark.parametrize(("unshuffle", "steps"), [(2, 1), (4, 2), (8, 3)])
def test_the_output_has_the_inputs_size(unshuffle, steps):
    net = SMALL.clone(unshuffle=unshuffle)
    variables = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())
    lq = jax.ShapeDtypeStruct((2, 4 * unshuffle, 12 * unshuffle, 3), jnp.float32)
    assert jax.eval_shape(net.apply, variables, lq).shape == lq.shape
    assert sum(name.startswith("upsample") for name in variables["params"]) == steps


def test_bfloat16_inside_leaves_float32_images():
    net = SMALL.clone(dtype=jnp.bfloat16)
    lq = jax.random.uniform(jax.random.key(0), (1, 8, 8, 3))
    reg, variables = jax.jit(net.init_with_output)(jax.random.key(1), lq)
    assert reg.dtype == jnp.float32
    assert jnp.abs(reg - jax.jit(SMALL.apply)(variables, lq)).max() < 0.05


def test_pixel_unshuffle_orders_channels_rows_columns():
    x = jnp.arange(2 * 2 * 3).reshape(1, 2, 2, 3) * 1.0  # value = 6 row + 3 column + channel
    assert pixel_unshuffle(x, 2).ravel().tolist() == [6 * r + 3 * c + k for k in range(3) for r in range(2) for c in range(2)]


def test_windows_come_apart_and_together():
    x = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    windows = partition(x, 4)
    assert jnp.array_equal(windows[2], x[0, :4, 8:].reshape(16, 3))
    assert jnp.array_equal(merge(windows, 8, 12), x)


@pytest.mark.parametrize(("net", "size", "message"), [
    (SMALL, (8, 12), "8x12; pad its height and width to multiples of 8"),
    (SMALL.clone(unshuffle=3), (12, 12), "give a power of two"),
])  # fmt: skip
def test_sizes_that_do_not_fit_are_named(net, size, message):
    with pytest.raises(InputError, match=message):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, *size, 3)))
