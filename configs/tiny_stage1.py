"""The embedded model's stage 1: a small SwinIR that adds to its input.

python -m diffbir_jax.train --config configs/tiny_stage1.py --workdir workdir/stage1 --config.data.folder=PHOTOS

Hardware: one CPU core, 0.8 s a step, 80 minutes. The shipped weights saw 4000 steps of 16 crops of 64 pixels by the recipe
codeformer, 3000 of 4 crops of 128 by codeformer and realesrgan, then 1800 and again 2700 of this with start_from.
"""

from diffbir_jax.training.config import SMOKE, TINY_DATA, recipe


def get_config(size="full"):
    network = {
        "kind": "SwinIR",
        "embed_dim": 96,
        "depths": (4,) * 3,
        "heads": (6,) * 3,
        "unshuffle": 4,
        "upsampler": "pixelshuffledirect",
        "residual": True,
    }
    changes = TINY_DATA | {
        "data__batch": 32,
        "relative_loss": True,
        "optimizer__learning_rate": 5e-4,
        "conv_implementation": "auto",
        "steps": 12_000,
    }
    if size == "smoke":
        changes |= SMOKE
    return recipe("stage1", network, **changes)
