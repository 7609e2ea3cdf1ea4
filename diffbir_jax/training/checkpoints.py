"""Orbax checkpoints: the state, the data iterator's position and the configuration, saved together."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from diffbir_jax.errors import InputError
from diffbir_jax.training.state import TrainState


class Checkpoints:
    """The checkpoints of one run, in WORKDIR/checkpoints; the newest `keep` are kept. Saving is asynchronous and atomic."""

    def __init__(self, workdir: Path, config: dict[str, Any], keep: int = 2):
        self.config = config
        options = ocp.CheckpointManagerOptions(max_to_keep=keep)
        self.manager = ocp.CheckpointManager(Path(workdir).absolute() / "checkpoints", options=options)

    def save(self, state: TrainState, position: dict[str, Any]) -> None:
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(position), config=ocp.args.JsonSave(self.config)
        )
        self.manager.save(int(state.step), args=items)

    def restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint shaped and placed like `state`, and the data position; None where there is none.

        Raises:
            InputError: the checkpoint was written with another configuration; the differences are named.
        """
        step = self.manager.latest_step()
        if step is None:
            return None
        saved = self.manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))["config"]
        if saved != self.config:
            raise InputError(
                f"{self.manager.directory} belongs to another configuration ({_difference(saved, self.config)}); "
                "use it again or another --workdir"
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore())
        restored = self.manager.restore(step, args=items)
        return restored["state"], restored["data"]

    def close(self) -> None:
        self.manager.wait_until_finished()
        self.manager.close()


def _difference(saved: dict, given: dict, prefix: str = "") -> str:
    found = []
    for key in sorted(saved.keys() | given.keys()):
        a, b = saved.get(key), given.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found.append(_difference(a, b, f"{prefix}{key}."))
        elif a != b:
            found.append(f"{prefix}{key} was {a}, is {b}")
    return "; ".join(filter(None, found))
