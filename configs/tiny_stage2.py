"""The embedded model's control branch, on pairs of clean photographs and stage 1's restorations; its prior learns along.

python -m diffbir_jax.train --config configs/tiny_stage2.py --workdir workdir/stage2 --config.data.folder=PHOTOS

Hardware: one H200 with --config.data.workers=7, 17 ms a step, one minute.
"""

from diffbir_jax.training.config import SMOKE, TINY_DATA, recipe


def get_config(size="full"):
    changes = TINY_DATA | {
        "data__batch": 32,
        "noises": 3,
        "low_steps": 0.7,
        "conv_implementation": "auto",
        "control_dropped": 0.2,
        "optimizer__learning_rate": 8e-4,
        "steps": 3000,
    }
    if size == "smoke":
        changes |= SMOKE
    return recipe("stage2", {}, **changes)
