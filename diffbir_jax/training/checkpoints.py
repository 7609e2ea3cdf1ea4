"""Orbax checkpoints: the state, the data iterator's position and the configuration, saved together."""

import sys
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from diffbir_jax.errors import InputError, reason
from diffbir_jax.training.checks import difference, flatten
from diffbir_jax.training.state import TrainState

# Keys that change nothing in what is trained: a run may go on with others.
FREE = (
    "log_every",
    "checkpoint_every",
    "keep",
    "output_folder",
    "data.cache",
    "data.prefetch",
    "guard.",
    "validation.",
)


class Checkpoints:
    """The checkpoints of one run, in WORKDIR/checkpoints. Saving is asynchronous and atomic.

    Args:
        workdir: of the run.
        config: its configuration, plain data; it holds the seed, so that with the step the state's random key is known.
        keep: how many of the newest stay.
        keep_every: checkpoints at multiples of this stay for good; 0: none.
    """

    def __init__(self, workdir: Path, config: dict[str, Any], keep: int = 2, keep_every: int = 0):
        self.config = config
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, keep_period=keep_every or None, cleanup_tmp_directories=True)
        self.manager = ocp.CheckpointManager(Path(workdir).absolute() / "checkpoints", options=options)

    def save(self, state: TrainState, position: dict[str, Any], step: int) -> None:
        """Starts to save; training may go on. A save that fails, this one or the one before, is a warning on stderr."""
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(position), config=ocp.args.JsonSave(self.config)
        )
        self.wait()
        if step in self.manager.all_steps():
            return
        try:
            self.manager.save(step, args=items, force=True)
        except (OSError, ValueError, RuntimeError) as error:
            self._warn(error)

    def wait(self) -> None:
        """Until the save under way is done; where it failed, a warning."""
        try:
            self.manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as error:
            self._warn(error)

    @property
    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        step = self.manager.latest_step()
        return None if step is None else Path(self.manager.directory) / str(step)

    def restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint, shaped and placed like `state`, and the data's position; None where there is none.

        The checkpoint may be of another number of devices.

        Raises:
            InputError: the checkpoint was written with another configuration, whose differences are named; is damaged; or is of
                networks of other sizes.
        """
        step = self.manager.latest_step()
        if step is None:
            return None
        saved = self._read(step, config=ocp.args.JsonRestore())["config"]
        if changes := difference(_bound(saved), _bound(self.config)):
            raise InputError(f"{self.latest} belongs to another configuration ({changes}); use it again or another --workdir")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        restored = self._read(step, state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore())
        return restored["state"], restored["data"]

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self.manager.restore(step, args=ocp.args.Composite(**items))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{self.latest} is damaged or of networks of other sizes ({reason(error)}); delete it to go on from an older one, "
                "or give another --workdir"
            ) from None

    def close(self) -> None:
        """Waits for the last save."""
        self.wait()
        self.manager.close()

    def _warn(self, error: Exception) -> None:
        kept = f"the newest whole one is {self.latest}" if self.latest else "there is none yet"
        print(f"warning: a checkpoint could not be saved ({reason(error)}); training goes on, {kept}", file=sys.stderr, flush=True)


def _bound(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flatten(config).items() if not key.startswith(FREE)}
