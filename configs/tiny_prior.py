"""The embedded model's diffusion prior, without text, on the latents of clean photographs."""

from diffbir_jax.training.config import recipe


def get_config(size="full"):
    network = {
        "kind": "UNet",
        "channels": (32, 64, 128),
        "blocks": 1,
        "attention": (False, False, True),
        "head_dim": 32,
        "context_dim": None,
        "groups": 8,
        "in_channels": 12,
        "out_channels": 12,
    }
    changes = {"data__recipe": "", "optimizer__learning_rate": 1e-3, "steps": 1200}
    if size == "smoke":
        changes |= {"steps": 4, "data__batch": 2, "log_every": 2, "checkpoint_every": 2}
    return recipe("prior", network, **changes)
