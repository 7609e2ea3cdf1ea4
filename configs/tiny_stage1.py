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
    changes = {
        "data__batch": 4,
        "data__recipe": "codeformer+realesrgan",
        "relative_loss": True,
        "optimizer__learning_rate": 6e-4,
        "steps": 6000,
    }
    if size == "smoke":
        changes |= {"steps": 4, "data__batch": 2, "log_every": 2, "checkpoint_every": 2}
    return recipe("stage1", network, **changes)
