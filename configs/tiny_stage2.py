"""The embedded model's control branch, on pairs of clean photographs and stage 1's restorations; its prior learns along.

python -m diffbir_jax.train --config configs/tiny_stage2.py --workdir workdir/stage2 --config.data.folder=PHOTOS

Hardware: two CPU cores, 1.2 s a step, an hour. The shipped weights saw 1200 steps with latents of equal variance in every channel,
then 2200 with the autoencoder's balanced ones.
"""

from diffbir_jax.training.config import SMOKE, recipe


def get_config(size="full"):
    changes = {
        "data__batch": 4,
        "noises": 2,
        "data__recipe": "codeformer+realesrgan",
        "conv_implementation": "cpu",
        "control_dropped": 0.2,
        "optimizer__learning_rate": 8e-4,
        "steps": 3000,
    }
    if size == "smoke":
        changes |= SMOKE
    return recipe("stage2", {}, **changes)
