"""Every network beside PyTorch's with identical random weights: small in every run, at the released sizes under the mark slow.

    pytest -s -m slow tests/models/test_full_size.py      # prints the table; about 15 GB of memory and of disk

The networks are diffusers', transformers' and those of tests/theirs.py.
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
from diffbir_jax.models.swinir import SwinIR
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
from theirs import ControlBranch, controlled, nchw, swinir, tensors  # noqa: E402
from theirs import module as module_of  # noqa: E402

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


def their_state(folder, name, net):
    """A saved network's weights by diffusers' keys."""
    params = table.without_last_layer(net, load_network(folder, name)[1])
    return tensors(to_torch(params, table.rows(params, [])))


def theirs(cls, net, state, **changes):
    """diffusers' module of the same sizes, holding the state."""
    return module_of(cls, configuration(net), state, **changes)


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
    vae, missing = theirs(diffusers.AutoencoderKL, net, their_state(folder, "autoencoder", net))
    assert not missing
    want = [vae.encode(nchw(2 * image - 1)).latent_dist.mode() * net.scaling_factor]
    want += [(vae.decode(nchw(z / net.scaling_factor)).sample + 1) / 2]
    del vae
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
    control = ControlBranch(configuration(net), their_state(folder, "control", branch))(z_t, cond, t, context)
    unet, missing = theirs(diffusers.UNet2DConditionModel, net, their_state(folder, "unet", net))
    assert not missing
    return controlled(unet, control, z_t, t, context)
