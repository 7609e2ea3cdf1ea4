"""A second witness: diffusers' networks at small sizes with random weights."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from diffbir_jax.models.autoencoder import AutoencoderKL
from diffbir_jax.models.unet import UNet
from diffbir_jax.weights.torch_format import Row, from_torch

pytestmark = [pytest.mark.witness, pytest.mark.filterwarnings("default")]

UNET = UNet(channels=(32, 64, 64), blocks=1, attention=(True, True, False), head_dim=16, context_dim=24)
VAE = AutoencoderKL(channels=(32, 64), blocks=1)
ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers")


def torch_params(net, torch, theirs):
    """Their weights, made random, as our parameters: the names are theirs but for the separators."""
    generator = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        spread = 0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        parameter.data = noise * spread + (1.0 if parameter.ndim == 1 and parameter.mean() == 1 else 0.0)
    shapes = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]
    rows = [Row(module, torch_name(module)) for module in {path.rpartition("/")[0] for path in flatten_dict(shapes, sep="/")}]
    params, unused = from_torch({k: v.detach().numpy() for k, v in theirs.state_dict().items()}, rows, shapes)
    assert unused == []
    return params


def torch_name(module):
    """down_blocks_0/resnets_1/conv1 -> down_blocks.0.resnets.1.conv1; `linear_1` is a name."""
    parts = [ATTENTION.get(part, re.sub(r"(?<!linear)_(\d+)$", r".\1", part)) for part in module.split("/")]
    return ".".join(parts)


def unet_sizes(attention_head_dim):
    down = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    up = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")
    sizes = {"block_out_channels": UNET.channels, "layers_per_block": UNET.blocks, "cross_attention_dim": UNET.context_dim}
    return {**sizes, "down_block_types": down, "up_block_types": up, "attention_head_dim": attention_head_dim,
            "use_linear_projection": True, "sample_size": 16}  # fmt: skip


def vae_sizes():
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return {**blocks, "block_out_channels": VAE.channels, "layers_per_block": VAE.blocks, "latent_channels": 4}


def inputs():
    rng = np.random.default_rng(0)
    z_t, context = rng.standard_normal((2, 12, 16, 4), np.float32), rng.standard_normal((2, 77, UNET.context_dim), np.float32)
    return jnp.asarray(z_t), jnp.asarray([7, 981]), jnp.asarray(context)


def image():
    return jnp.asarray(np.random.default_rng(1).random((1, 16, 24, 3), np.float32))


def relative(ours, theirs):
    theirs = np.asarray(theirs).transpose(0, 2, 3, 1)
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def torch_nchw(torch, x):
    return torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy())


def test_unet_is_diffusers_pytorch_unet(torch, diffusers):
    theirs = diffusers.UNet2DConditionModel(**unet_sizes((2, 4, 4))).eval()
    params = torch_params(UNET, torch, theirs)
    z_t, t, context = inputs()
    with torch.no_grad():
        want = theirs(torch_nchw(torch, z_t), torch.tensor(np.asarray(t)), torch.tensor(np.asarray(context))).sample
    got = jax.jit(lambda p, *x: UNET.apply({"params": p}, *x))(params, z_t, t, context)
    assert relative(got, want) < 1e-5


def test_autoencoder_is_diffusers_pytorch_autoencoder(torch, diffusers):
    theirs = diffusers.AutoencoderKL(**vae_sizes()).eval()
    params = torch_params(VAE, torch, theirs)
    with torch.no_grad():
        posterior = theirs.encode(torch_nchw(torch, 2 * image() - 1)).latent_dist
        want = theirs.decode(posterior.mode()).sample
    mean, logvar = jax.jit(lambda p: VAE.apply({"params": p}, image(), method="moments"))(params)
    assert relative(mean, posterior.mean) < 1e-5 and relative(logvar, posterior.logvar) < 1e-5
    assert relative(2 * jax.jit(lambda p: VAE.apply({"params": p}, image()))(params) - 1, want) < 1e-5


def random_like(shapes):
    """Weights of unit gain, norms near one."""
    rng = np.random.default_rng(2)

    def draw(path, s):
        spread = 0.1 if len(s.shape) == 1 else np.prod(s.shape[:-1]) ** -0.5
        return (rng.standard_normal(s.shape) * spread + (path[-1].key == "scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def flax_params(theirs, net, *example):
    """Random weights in the tree of their module, which must be ours."""
    own = jax.eval_shape(theirs.init, jax.random.key(0), *example)["params"]
    ours = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, ours)
    return random_like(ours)


def test_unet_is_diffusers_flax_unet_but_for_its_gelu(diffusers):
    """Theirs has the tanh GELU and 1e-5 in the transformers' GroupNorm, where the original has erf and 1e-6: hence 1e-3."""
    z_t, t, context = inputs()
    nchw = jnp.transpose(z_t, (0, 3, 1, 2))
    theirs = diffusers.FlaxUNet2DConditionModel(**unet_sizes((2, 4, 4)))
    params = flax_params(theirs, UNET, nchw, t, context)
    want = jax.jit(lambda p: theirs.apply({"params": p}, nchw, t, context).sample)(params)
    got = jax.jit(lambda p: UNET.apply({"params": p}, z_t, t, context))(params)
    assert relative(got, want) < 1e-3


def test_autoencoder_is_diffusers_flax_autoencoder(diffusers):
    nchw = jnp.transpose(2 * image() - 1, (0, 3, 1, 2))
    theirs = diffusers.FlaxAutoencoderKL(**vae_sizes())
    params = flax_params(theirs, VAE, nchw)
    want = jax.jit(lambda p: theirs.apply({"params": p}, nchw).sample)(params)
    assert relative(2 * jax.jit(lambda p: VAE.apply({"params": p}, image()))(params) - 1, want) < 1e-5
