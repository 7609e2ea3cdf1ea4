"""The embedded model's autoencoder (factor 8, 48 channels).

python -m diffbir_jax.train --config configs/tiny_autoencoder.py --workdir workdir/autoencoder --config.data.folder=PHOTOS

Hardware: one H200 with --config.data.workers=5, 14 ms a step alone, 23 ms beside another run: the shipped weights took 2 minutes,
and compiling as long. 45 dB on crops of the training photographs.
"""

from diffbir_jax.training.config import SMOKE, recipe


def get_config(size="full"):
    network = {
        "kind": "AutoencoderKL",
        "channels": (16, 32, 64, 128),
        "blocks": 1,
        "latent_channels": 48,
        "groups": 8,
        "mid_attention": False,
        "shortcut": True,
    }
    changes = {
        "data__recipe": "",
        "data__batch": 32,
        "optimizer__learning_rate": 1e-3,
        "conv_implementation": "auto",
        "steps": 5000,
    }
    if size == "smoke":
        changes |= SMOKE
    return recipe("autoencoder", network, **changes)
