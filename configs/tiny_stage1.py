"""The embedded model's stage 1: a small SwinIR that adds to its input."""

from diffbir_jax.training.config import recipe


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
    changes = {"data__crop": 64, "relative_loss": True, "optimizer__learning_rate": 8e-4, "steps": 4000}
    if size == "smoke":
        changes |= {"steps": 4, "data__batch": 2, "log_every": 2, "checkpoint_every": 2}
    return recipe("stage1", network, **changes)
