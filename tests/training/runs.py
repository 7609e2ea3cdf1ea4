"""A small stage 1 to train, in this process or, `python runs.py ARGUMENTS`, in one of its own."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def small_stage1(photos, model_folder, **changes):
    from diffbir_jax.training.config import TOY_SWINIR, recipe

    shared = {"data__folder": str(photos), "data__crop": 16, "data__batch": 8, "steps": 12, "log_every": 2, "checkpoint_every": 2}
    shared |= {"optimizer__warmup": 0, "optimizer__schedule": "constant", "model_folder": str(model_folder)}
    return recipe("stage1", TOY_SWINIR, **shared | changes)


def trained(model_folder):
    """The parameters a run left."""
    return load_file(Path(model_folder) / "stage1.safetensors")


def same(a, b, rtol=0.0, atol=0.0):
    return a.keys() == b.keys() and all(np.allclose(a[k], b[k], rtol=rtol, atol=atol) for k in a)


def watch(patch, seen, stop_after=None, signal_number=None):
    """Lets Batches note every batch's hash in `seen`, and a run get a signal after its `stop_after`-th batch."""
    import os

    from diffbir_jax.training.batches import Batches

    original = Batches.next

    def next_batch(self):
        batch = original(self)
        seen.append(hashlib.sha256(np.asarray(batch["lq"]).tobytes()).hexdigest())
        if len(seen) == stop_after:
            os.kill(os.getpid(), signal_number)
        return batch

    patch.setattr(Batches, "next", next_batch)


if __name__ == "__main__":  # photos, folder, changes as JSON, and for several processes: coordinator, their count, this one's index
    photos, folder, changes, *where = sys.argv[1:]
    from diffbir_jax import cli
    from diffbir_jax.training.processes import Processes

    Processes(where[0], int(where[1]), int(where[2])).join() if where else None
    from diffbir_jax.training.loop import train

    config = small_stage1(photos, Path(folder) / "model", **json.loads(changes))
    sys.exit(cli.run(lambda: train(config, Path(folder) / "run") or 0, "diffbir_jax.train"))
