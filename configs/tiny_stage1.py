"""The embedded model's stage 1: a small SwinIR that adds to its input.

python -m diffbir_jax.train --config configs/tiny_stage1.py --workdir workdir/stage1 --config.data.folder=PHOTOS

Hardware: one CPU core, 1 s a step, 100 minutes. The shipped weights saw 4000 steps of 16 crops of 64 pixels by the recipe
codeformer, then 3000 steps of this: 0.8 dB better than their input on crops of the training photographs.
"""

from diffbir_jax.training.config import SMOKE, recipe


def get_config(size="full"):
    network = {
        "kind": "SwinIR",
        "embed_dim": 64,
        "depths": (3,) * 3,
        "heads": (4,) * 3,
        "unshuffle": 4,
        "upsampler": "pixelshuffledirect",
        "residual": True,
    }
    changes = {
        "data__batch": 4,
        "data__recipe": "codeformer+realesrgan",
        "relative_loss": True,
        "optimizer__learning_rate": 6e-4,
        "steps": 6000,
    }
    if size == "smoke":
        changes |= SMOKE
    return recipe("stage1", network, **changes)
