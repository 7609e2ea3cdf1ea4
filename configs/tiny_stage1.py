"""The embedded model's stage 1: a small SwinIR that adds to its input.

python -m diffbir_jax.train --config configs/tiny_stage1.py --workdir workdir/stage1 --config.data.folder=PHOTOS

Hardware: one CPU core, 1 s a step, 100 minutes. The shipped weights saw 4000 steps of 16 crops of 64 pixels by the recipe
codeformer, 3000 of 4 crops of 128 by codeformer and realesrgan, then 1800 of this with start_from.
"""

from diffbir_jax.training.config import SMOKE, recipe

MILD = {"blur": {"sigma": (0.1, 3.0)}, "downsample": (1.0, 4.0), "noise": (0.0, 10.0), "quality": (50, 95)}


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
        "data__batch": 8,
        "data__crop": 96,
        "data__recipe": "codeformer+realesrgan+face",  # face with milder ranges: most photographs are damaged little
        "data__recipe_overrides": {"face": MILD},
        "relative_loss": True,
        "optimizer__learning_rate": 5e-4,
        "steps": 6000,
    }
    if size == "smoke":
        changes |= SMOKE
    return recipe("stage1", network, **changes)
