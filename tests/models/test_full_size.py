"""Every network beside PyTorch's with identical random weights: small in every run, at the released sizes under the mark slow.

    pytest -s -m slow tests/models/test_full_size.py      # prints the table; about 15 GB of memory and of disk

The networks are diffusers' and transformers'; the control branch is put together of diffusers' blocks, SwinIR is written out here.
"""

import gc
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.models.autoencoder import AutoencoderKL
from diffbir_jax.models.control import LAControlNet
from diffbir_jax.models.swinir import MEAN, SwinIR
from diffbir_jax.models.text_encoder import TextEncoder
from diffbir_jax.models.tokenizer import Tokenizer
from diffbir_jax.models.unet import UNet
from diffbir_jax.weights.diffusers_folder import configuration
from diffbir_jax.weights.folder import load_network, save_network
from diffbir_jax.weights.released import released, shapes_of
from diffbir_jax.weights.tables import diffusers as table
from diffbir_jax.weights.torch_format import to_torch

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
F = torch.nn.functional
pytestmark = [pytest.mark.witness, pytest.mark.filterwarnings("default")]

PROMPTS = ["", "a red panda on a branch, sharp focus", "low quality, blurry, low-resolution, noisy, unsharp, weird textures"]
BOUND = 1e-4


class Sizes(NamedTuple):
    image: int
    swinir: SwinIR
    unet: UNet
    control: LAControlNet
    autoencoder: AutoencoderKL
    text_encoder: TextEncoder


_UNET: dict[str, Any] = {"channels": (64, 128, 128), "attention": (True, True, False), "head_dim": 32, "context_dim": 64}
SMALL = Sizes(
    128,
    SwinIR(embed_dim=24, depths=(2, 2), heads=(2, 2)),
    UNet(**_UNET),
    LAControlNet(**_UNET),
    AutoencoderKL(channels=(32, 64, 64, 64)),
    TextEncoder(width=64, layers=3, heads=2),
)
FULL = Sizes(512, SwinIR(), UNet(), LAControlNet(), AutoencoderKL(), TextEncoder())


@pytest.fixture(params=[pytest.param(SMALL, id="small"), pytest.param(FULL, id="full", marks=pytest.mark.slow)])
def sizes(request):
    return request.param


@pytest.fixture
def saved(tmp_path):
    """Draws a network's weights (unit gain, norms near one) into a model folder: they are held once, in a file."""

    def save(name, net):
        rng = np.random.default_rng(len(name))

        def draw(path, s):
            x = rng.standard_normal(s.shape, np.float32)
            if len(s.shape) == 1:
                return 0.1 * x + np.float32(path[-1].key == "scale")
            gain = 0.02 if "embedding" in path[-1].key else np.prod(s.shape[:-1]) ** -0.5
            return x * np.float32(gain)

        save_network(tmp_path, name, net, jax.tree_util.tree_map_with_path(draw, shapes_of(net)))
        return tmp_path

    yield save
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    gc.collect()


def tensors(state):
    return {key: torch.from_numpy(np.array(x, order="C")) for key, x in state.items()}


def their_state(folder, name, net):
    """A saved network's weights by diffusers' keys."""
    params = table.without_last_layer(net, load_network(folder, name)[1])
    return tensors(to_torch(params, table.rows(params, [])))


def theirs(cls, net, state, **changes):
    """diffusers' module of the same sizes, holding the state; what the state lacks has no memory."""
    with torch.device("meta"):
        module = cls(**{k: v for k, v in configuration(net).items() if k != "_class_name"} | changes)
    missing, unexpected = module.load_state_dict(state, assign=True, strict=False)
    assert not unexpected
    return module.eval(), missing


def nchw(x):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def table_row(name, want, run, folder, names, *inputs):
    """Runs ours with the saved weights as they are, and stored in bfloat16; prints and checks the relative L2 distances."""
    want = [np.moveaxis(x.numpy(), 1, -1) if x.ndim == 4 else x.numpy() for x in want]
    errors = []
    for dtype in (np.float32, jnp.bfloat16):
        params = {n: load_network(folder, n, dtype, jax.device_put)[1] for n in names}
        got = jax.jit(run)(params, *map(jnp.asarray, inputs))
        errors.append(max(float(np.linalg.norm(g - w) / np.linalg.norm(w)) for g, w in zip(got, want, strict=True)))
        del params
    print(f"\n| {name} | {errors[0]:.1e} | {errors[1]:.1e} |")
    assert errors[0] < BOUND and errors[1] < 0.1


@torch.no_grad()
def swinir(state, net, lq):
    """SwinIR written out in PyTorch, for images [1, 3, H, W] whose sides are multiples of 64."""
    c, window = net.embed_dim, net.window
    norm = partial(_layer_norm, state)
    conv = partial(_conv, state)
    mean = torch.from_numpy(MEAN).permute(0, 3, 1, 2)
    shallow = conv("conv_first.1", F.pixel_unshuffle(lq - mean, net.unshuffle))
    h, w = shallow.shape[2:]
    mask = _shift_mask(h, w, window)
    x = norm("patch_embed.norm", shallow.flatten(2).transpose(1, 2))
    for i, depth in enumerate(net.depths):
        before = x
        for j in range(depth):
            name, shift = f"layers.{i}.residual_group.blocks.{j}", window // 2 * (j % 2)
            y = norm(f"{name}.norm1", x).view(1, h, w, c).roll((-shift, -shift), (1, 2))
            y = y.view(h // window, window, w // window, window, c).permute(0, 2, 1, 3, 4).reshape(-1, window**2, c)
            y = _window_attention(state, f"{name}.attn", net.heads[i], y, mask if shift else None)
            y = y.view(h // window, w // window, window, window, c).permute(0, 2, 1, 3, 4).reshape(1, h, w, c)
            x = x + y.roll((shift, shift), (1, 2)).reshape(1, h * w, c)
            y = F.gelu(F.linear(norm(f"{name}.norm2", x), state[f"{name}.mlp.fc1.weight"], state[f"{name}.mlp.fc1.bias"]))
            x = x + F.linear(y, state[f"{name}.mlp.fc2.weight"], state[f"{name}.mlp.fc2.bias"])
        x = before + conv(f"layers.{i}.conv", x.transpose(1, 2).view(1, c, h, w)).flatten(2).transpose(1, 2)
    x = shallow + conv("conv_after_body", norm("norm", x).transpose(1, 2).view(1, c, h, w))
    x = F.leaky_relu(conv("conv_before_upsample.0", x), 0.01)
    for i in range(net.unshuffle.bit_length() - 1):
        x = F.leaky_relu(conv(f"conv_up{i + 1}", F.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
    return conv("conv_last", F.leaky_relu(conv("conv_hr", x), 0.2)) + mean


def _layer_norm(state, name, x):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)


def _conv(state, name, x):
    return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)


def _window_attention(state, name, heads, x, mask):
    windows, tokens, c = x.shape
    q, k, v = (
        F.linear(x, state[f"{name}.qkv.weight"], state[f"{name}.qkv.bias"])
        .view(windows, tokens, 3, heads, -1)
        .permute(2, 0, 3, 1, 4)
    )
    logits = (q * (c // heads) ** -0.5) @ k.transpose(-2, -1)
    index = state[f"{name}.relative_position_index"].flatten()
    logits = logits + state[f"{name}.relative_position_bias_table"][index].view(tokens, tokens, heads).permute(2, 0, 1)
    if mask is not None:
        logits = logits + mask[:, None]
    x = (logits.softmax(-1) @ v).transpose(1, 2).reshape(windows, tokens, c)
    return F.linear(x, state[f"{name}.proj.weight"], state[f"{name}.proj.bias"])


def _shift_mask(h, w, window):
    """-100 between tokens that were not neighbours before the shift: the image is cut in 3 x 3 regions."""
    regions = torch.zeros(h, w)
    cuts = (slice(0, -window), slice(-window, -window // 2), slice(-window // 2, None))
    for i, rows in enumerate(cuts):
        for j, columns in enumerate(cuts):
            regions[rows, columns] = 3 * i + j
    regions = regions.view(h // window, window, w // window, window).permute(0, 2, 1, 3).reshape(-1, window**2)
    return torch.where(regions[:, None] == regions[:, :, None], 0.0, -100.0)


def test_swinir(sizes, saved):
    net = sizes.swinir
    folder = saved("stage1", net)
    lq = np.random.default_rng(0).random((1, sizes.image, sizes.image, 3), np.float32)
    want = swinir(tensors(released(net, load_network(folder, "stage1")[1])), net, nchw(lq))
    table_row("SwinIR", [want], lambda p, lq: [net.apply({"params": p["stage1"]}, lq)], folder, ["stage1"], lq)


@torch.no_grad()
def test_autoencoder(sizes, saved):
    net = sizes.autoencoder
    folder = saved("autoencoder", net)
    rng = np.random.default_rng(0)
    image = rng.random((1, sizes.image, sizes.image, 3), np.float32)
    z = rng.standard_normal((1, sizes.image // 8, sizes.image // 8, 4), np.float32)
    module, missing = theirs(diffusers.AutoencoderKL, net, their_state(folder, "autoencoder", net))
    assert not missing
    want = [module.encode(nchw(2 * image - 1)).latent_dist.mode() * net.scaling_factor]
    want += [(module.decode(nchw(z / net.scaling_factor)).sample + 1) / 2]
    del module
    for i, (name, x) in enumerate((("encode", image), ("decode", z))):
        run = partial(_autoencoder, net, name)
        table_row(f"autoencoder, {name}", want[i : i + 1], run, folder, ["autoencoder"], x)


def _autoencoder(net, method, params, x):
    return [net.apply({"params": params["autoencoder"]}, x, method=method)]


@torch.no_grad()
def test_text_encoder(sizes, saved):
    net = sizes.text_encoder
    folder = saved("text_encoder", net)
    config = configuration(net)
    module = transformers.CLIPTextModel(transformers.CLIPTextConfig(**config)).eval()
    missing, unexpected = module.load_state_dict(their_state(folder, "text_encoder", net), strict=False)
    assert not missing and not unexpected
    tokens = Tokenizer()(PROMPTS)
    want = module(torch.from_numpy(tokens.astype(np.int64))).last_hidden_state
    del module
    table_row(
        "text tower", [want], lambda p, tokens: [net.apply({"params": p["text_encoder"]}, tokens)], folder, ["text_encoder"], tokens
    )


@torch.no_grad()
def test_controlled_unet(sizes, saved):
    """The control branch: diffusers' encoder with 8 input channels, then our state's 1x1 convolutions."""
    net, branch = sizes.unet, sizes.control
    folder = saved("unet", net)
    saved("control", branch)
    rng = np.random.default_rng(0)
    side = sizes.image // 8
    z_t, cond = (rng.standard_normal((1, side, side, 4), np.float32) for _ in range(2))
    context, t = rng.standard_normal((1, 77, net.context_dim), np.float32), np.array([601])
    want = _their_eps(net, branch, folder, *map(nchw, (z_t, cond)), torch.from_numpy(context), torch.from_numpy(t))

    def run(params, z_t, t, context, cond):
        control = branch.apply({"params": params["control"]}, z_t, t, context, cond)
        return [net.apply({"params": params["unet"]}, z_t, t, context, control)]

    table_row("controlled UNet", [want], run, folder, ["unet", "control"], z_t, t, context, cond)


def _their_eps(net, branch, folder, z_t, cond, context, t):
    state = their_state(folder, "control", branch)
    convolutions = {key: state.pop(key) for key in list(state) if key.startswith("controlnet_")}
    encoder, missing = theirs(diffusers.UNet2DConditionModel, net, state, in_channels=8)
    assert all(key.startswith(("up_blocks.", "conv_norm_out.", "conv_out.")) for key in missing)
    temb = encoder.time_embedding(encoder.time_proj(t).to(z_t.dtype))
    x = encoder.conv_in(torch.cat([z_t, cond], 1))
    skips = [x]
    for block in encoder.down_blocks:
        attends = {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}
        x, more = block(hidden_states=x, temb=temb, **attends)
        skips += more
    skips.append(encoder.mid_block(x, temb, encoder_hidden_states=context))
    names = [f"controlnet_down_blocks.{i}" for i in range(len(skips) - 1)] + ["controlnet_mid_block"]
    control = [F.conv2d(x, convolutions[f"{n}.weight"], convolutions[f"{n}.bias"]) for n, x in zip(names, skips, strict=True)]
    del encoder, state, x, skips
    module, missing = theirs(diffusers.UNet2DConditionModel, net, their_state(folder, "unet", net))
    assert not missing
    added = {"down_block_additional_residuals": control[:-1], "mid_block_additional_residual": control[-1]}
    return module(z_t, t, encoder_hidden_states=context, **added).sample
