import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from golden import vectors

from diffbir_jax.errors import InputError
from diffbir_jax.models.autoencoder import AutoencoderKL
from diffbir_jax.models.bsrnet import RRDBNet
from diffbir_jax.models.control import ControlNet, LAControlNet
from diffbir_jax.models.scunet import SCUNet
from diffbir_jax.models.swinir import SwinIR
from diffbir_jax.models.text_encoder import TextEncoder
from diffbir_jax.models.unet import UNet
from diffbir_jax.weights.recognition import recognise
from diffbir_jax.weights.released import ours, released, schedule_buffers

DATA = Path(__file__).parent.parent / "data"
SWINIR = SwinIR(embed_dim=24, depths=(2, 2), heads=(2, 2))
CONTROL = LAControlNet(channels=(32, 64), attention=(True, True), head_dim=16, context_dim=32)
BUFFERS = ("relative_position_index", "attn_mask")


def golden(file, prefix):
    return {k.removeprefix(prefix): v for k, v in vectors(file).items() if k.startswith(prefix)}


def swinir_state():
    state = golden("swinir", "params.")
    net = recognise(state)
    return released(net, ours(net, state)[0])


def manifest(name):
    shapes = json.loads((DATA / "manifests" / f"{name}.json").read_text())
    return {k: np.broadcast_to(np.int8(0), shape) for k, shape in shapes.items() if not k.endswith(BUFFERS)}


def random_state(net):
    shapes = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]
    rng = np.random.default_rng(0)
    return released(net, jax.tree.map(lambda s: rng.standard_normal(s.shape, np.float32), shapes))


@pytest.mark.parametrize(("name", "net"), [
    ("swinir", SwinIR()), ("controlnet", LAControlNet()), ("unet", UNet()), ("vae", AutoencoderKL()), ("clip_text", TextEncoder()),
    ("bsrnet", RRDBNet()), ("scunet", SCUNet()),
])  # fmt: skip
def test_the_released_sizes_are_inferred(name, net):
    assert recognise(manifest(name)) == net


def test_the_released_swinir_gets_every_key_back_in_shape():
    released_shapes = json.loads((DATA / "manifests" / "swinir.json").read_text())
    state = released(SwinIR(), ours(SwinIR(), manifest("swinir"))[0])
    assert {k: list(v.shape) for k, v in state.items()} == released_shapes


def test_golden_sizes_are_inferred():
    assert recognise(golden("swinir", "params.")) == SWINIR
    assert recognise(golden("unet_control", "controlnet."), head_dim=16) == CONTROL
    assert recognise(golden("unet_control", "unet."), head_dim=16) == UNet((32, 64), 2, (True, True), 16, 32)
    assert recognise(golden("vae", "params.")) == AutoencoderKL(channels=(32, 64, 64, 64))
    assert recognise(golden("bsrnet", "params.")) == RRDBNet(features=16, blocks=2, growth=8)


@pytest.mark.parametrize("net", [
    SwinIR(embed_dim=12, depths=(1, 3), heads=(3, 2), window=4, mlp_ratio=3, unshuffle=2, features=5),
    SwinIR(embed_dim=8, depths=(2,), heads=(1,), window=2, mlp_ratio=2, unshuffle=4, features=8),
])  # fmt: skip
def test_any_swinir_is_recognised(net):
    state = random_state(net)
    assert recognise(state) == net
    assert ours(net, state)[1] == []


@pytest.mark.parametrize("net", [
    LAControlNet((32, 32, 64), blocks=1, attention=(False, True, True), head_dim=32, context_dim=7, in_channels=3, cond_channels=3),
    LAControlNet(channels=(64,), blocks=3, attention=(True,), head_dim=64, context_dim=5),
    LAControlNet(channels=(64, 32, 128), blocks=2, attention=(True, False, False), head_dim=64, context_dim=5),
])  # fmt: skip
def test_any_control_branch_is_recognised(net):
    state = random_state(net)
    assert recognise(state, net.head_dim) == net
    assert ours(net, state)[1] == []


def test_buffers_may_be_missing_and_strangers_are_reported():
    whole = swinir_state()
    bare = {k: v for k, v in whole.items() if not k.endswith(BUFFERS)}
    assert len(bare) < len(whole)
    for state in (whole, bare):
        params, unused = ours(SWINIR, {**state, "epoch": np.zeros(1)})
        assert unused == ["epoch"]
        back = released(SWINIR, params)
        assert back.keys() == whole.keys() and all(np.array_equal(back[k], v) for k, v in whole.items())


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_stays_and_masks_follow_it(dtype):
    state = {k: v.astype(dtype) if v.dtype == np.float32 else v for k, v in swinir_state().items()}
    back = released(SWINIR, ours(SWINIR, state)[0])
    assert back.keys() == state.keys()
    assert all(back[k].dtype == v.dtype and back[k].tobytes() == v.tobytes() for k, v in state.items())


def test_masks_of_another_size_are_understood_and_written():
    state = swinir_state()
    smaller = released(SWINIR, ours(SWINIR, state)[0], 32)
    assert smaller["layers.0.residual_group.blocks.1.attn_mask"].shape == (16, 64, 64)
    assert ours(SWINIR, smaller)[1] == []
    with pytest.raises(InputError, match="multiple of the window"):
        released(SWINIR, ours(SWINIR, state)[0], 20)


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s.pop("conv_hr.weight"), "lack 'conv_hr.weight'"),
    (lambda s: s.pop("layers.0.residual_group.blocks.0.mlp.fc1.weight"), "lack 'layers.0.*fc1.weight'"),
    (lambda s: s.update({"conv_hr.weight": np.zeros((1, 64, 3, 3))}), "'conv_hr.weight' has shape"),
    (lambda s: s.update({"conv_first.1.weight": np.zeros((24, 0, 3, 3))}), "'conv_first.1.weight' has shape"),
    (lambda s: s.update({"conv_first.1.weight": np.zeros(3)}), "'conv_first.1.weight' has shape"),
    (lambda s: s.update({"conv_up4.weight": np.zeros((64, 64, 3, 3))}), "shrinks 8 times and enlarges 16"),
    (lambda s: s.update({"layers.0.residual_group.blocks.0.attn.relative_position_bias_table": np.zeros((225, 7))}), "7 heads"),
    (lambda s: s.update({"layers.0.residual_group.blocks.0.attn.relative_position_index": np.zeros((64, 64))}), "other values"),
    (lambda s: s.update({"layers.0.residual_group.blocks.1.attn_mask": np.zeros((3, 64, 64))}), "no square"),
])  # fmt: skip
def test_a_damaged_swinir_is_named(change, message):
    state = swinir_state()
    change(state)
    with pytest.raises(InputError, match=message):
        ours(recognise(state), state)


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s.pop("middle_block_out.0.bias"), "lack 'middle_block_out.0.bias'"),
    (lambda s: s.pop("input_blocks.1.0.out_layers.3.weight"), "lack 'input_blocks.1.0"),
    (lambda s: s.update({"input_blocks.7.0.x": np.zeros(1)}), "7 stages on 2 levels"),
    (lambda s: s.update({"input_blocks.0.0.weight": np.zeros((33, 8, 3, 3))}), "33 channels"),
])  # fmt: skip
def test_a_damaged_control_branch_is_named(change, message):
    state = golden("unet_control", "controlnet.")
    change(state)
    with pytest.raises(InputError, match=message):
        ours(recognise(state, 16), state)


def test_heads_that_do_not_fit_ask_for_their_size():
    with pytest.raises(InputError, match="size 64 do not divide 32.*--head-dim"):
        recognise(golden("unet_control", "controlnet."))


def test_another_network_is_refused():
    with pytest.raises(InputError, match="none of DiffBIR's networks; its first keys are x"):
        recognise({"x": np.zeros(1)})


def test_the_schedules_buffers_are_those_of_the_original():
    """The beginning of the table in tests/data, and the closed forms that tie the buffers together."""
    buffers = schedule_buffers()
    assert len(buffers) == 13 and all(x.shape == (1000,) and x.dtype == np.float32 for x in buffers.values())
    assert np.array_equal(buffers["betas"], vectors("schedule")["betas"].astype(np.float32)) and not buffers["logvar"].any()
    np.testing.assert_allclose(buffers["sqrt_alphas_cumprod"] ** 2 + buffers["sqrt_one_minus_alphas_cumprod"] ** 2, 1, rtol=1e-6)
    mean = (
        buffers["posterior_mean_coef1"] * buffers["sqrt_alphas_cumprod"]
        + buffers["posterior_mean_coef2"] * buffers["alphas_cumprod"]
    )
    np.testing.assert_allclose(mean[0], buffers["sqrt_alphas_cumprod"][0], rtol=1e-5)
    assert buffers["posterior_log_variance_clipped"][0] == np.log(np.float32(1e-20))


@pytest.mark.parametrize(("net", "message"), [
    (SwinIR(residual=True), "adds its output to its input"),
    (LAControlNet(context_dim=None), "attends to a text"),
    (LAControlNet(groups=16), "32 groups"),
    (ControlNet(), "ControlNet cannot be written"),
    (AutoencoderKL(shortcut=True), "shortcuts"),
])  # fmt: skip
def test_what_the_original_cannot_load_is_not_written(net, message):
    with pytest.raises(InputError, match=message):
        released(net, {})
