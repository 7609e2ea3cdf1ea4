"""Model folders with networks at toy sizes, and small photographs."""

import cv2
import jax
import numpy as np


def write_model(folder, stage1, context_dim=None):
    """A model folder with networks at toy sizes, every parameter random."""
    from diffbir_jax.models.autoencoder import AutoencoderKL
    from diffbir_jax.models.control import LAControlNet
    from diffbir_jax.models.text_encoder import TextEncoder
    from diffbir_jax.models.unet import UNet
    from diffbir_jax.weights.folder import read_card, save_network, write_card

    sizes = {"channels": (8, 8), "blocks": 1, "attention": (False, True), "head_dim": 8, "context_dim": context_dim, "groups": 4}
    nets = {
        "stage1": stage1,
        "autoencoder": AutoencoderKL(channels=(8, 8), blocks=1, groups=4, mid_attention=False, scaling_factor=1.0),
        "unet": UNet(**sizes),
        "control": LAControlNet(**sizes),
    }
    if context_dim:
        nets["text_encoder"] = TextEncoder(width=context_dim, layers=2, heads=2)
    rng = np.random.default_rng(0)
    for name, net in nets.items():
        shapes = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"]
        save_network(folder, name, net, jax.tree.map(lambda x: 0.1 * rng.standard_normal(x.shape, np.float32), shapes))
    sampling = {"parameterisation": "v", "zero_snr": False, "short_edge": 32, "multiple": 16, "padding": "edge"}
    write_card(folder, read_card(folder) | {"sampling": sampling})
    return folder


def write_photos(folder, count):
    """`count` PNG files of 64x48 pixels; the folder."""
    rng = np.random.default_rng(0)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (64, 48)))
    return folder
