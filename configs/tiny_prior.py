"""The embedded model's diffusion prior, without text, on the latents of clean photographs.

python -m diffbir_jax.train --config configs/tiny_prior.py --workdir workdir/prior --config.data.folder=PHOTOS

Hardware: one H200 with --config.data.workers=6, 12 to 17 ms a step, one minute. It learns on in stage 2.
"""

from diffbir_jax.training.config import SMOKE, recipe


def get_config(size="full"):
    network = {
        "kind": "UNet",
        "channels": (96, 192),
        "blocks": 1,
        "attention": (False, True),
        "head_dim": 32,
        "context_dim": None,
        "groups": 8,
        "in_channels": 48,
        "out_channels": 48,
        "shortcut": True,
    }
    changes = {
        "data__recipe": "",
        "data__batch": 64,
        "conv_implementation": "auto",
        "optimizer__learning_rate": 1e-3,
        "optimizer__final": 0.3,
        "steps": 4000,
        "defaults": {
            "sampler": "dpm++_2m",
            "steps": 5,
            "start": "condition",
            "strength": 0.2,
            "guidance_scale": 2000.0,
            "guidance_weights": "region",
        },
    }
    if size == "smoke":
        changes |= SMOKE
    return recipe("prior", network, **changes)
