"""Runs over several processes: how they find each other, stop together, and end when one is lost."""

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils

from diffbir_jax.errors import InputError, reason

HEARTBEAT_SECONDS = 30  # silence after which a process counts as lost
LOST = 3  # exit code


@dataclass(frozen=True)
class Processes:
    """Where this process stands among those of a run.

    Attributes:
        coordinator: HOST:PORT of the first process; "": as Slurm, a TPU pod or GKE says, or alone.
        count: of processes.
        index: of this one, from 0.

    Raises:
        InputError: only some are given, or numbers that do not go together.
    """

    coordinator: str = ""
    count: int = 0
    index: int = -1

    def __post_init__(self):
        given = bool(self.coordinator), self.count > 0, self.index >= 0
        if any(given) and not all(given):
            raise InputError("give --coordinator, --process-count and --process-index together, or none of them")
        if all(given) and self.index >= self.count:
            raise InputError(f"--process-index is {self.index}; give 0 to {self.count - 1}, below --process-count")

    def join(self) -> None:
        """Joins the others before JAX touches a device; alone, nothing happens.

        Raises:
            InputError: the others cannot be reached.
        """
        where: dict[str, Any] = {}
        if self.coordinator:
            where = {"coordinator_address": self.coordinator, "num_processes": self.count, "process_id": self.index}
        elif not detected(os.environ):
            return
        try:
            jax.distributed.initialize(**where, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
            multihost_utils.sync_global_devices("joined")  # all connect now: later, half a minute apart is too late for gloo
        except (RuntimeError, ValueError) as error:
            raise InputError(f"the other processes cannot be joined ({reason(error)}); check --coordinator") from None


def detected(environment: Mapping[str, str]) -> bool:
    """Whether a Slurm step, a TPU pod or a GKE job of several processes is running, which `jax.distributed` then reads itself."""
    several = (
        int(environment.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in environment,
        "," in environment.get("TPU_WORKER_HOSTNAMES", ""),
        "MEGASCALE_COORDINATOR_ADDRESS" in environment,
    )
    return any(several)


class StopRequest:
    """SIGTERM, as asked for by `reached`: alone from a handler, among several processes as all of them agree on a step."""

    def __init__(self):
        self.several = jax.process_count() > 1
        self.asked = False
        if not self.several:
            signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: Any) -> None:
        self.asked = True

    def reached(self, step: int) -> bool:
        """Whether to save after `step` and stop."""
        return multihost_utils.reached_preemption_sync_point(step) if self.several else self.asked


def end_lost(error: Exception, newest: Path | None) -> NoReturn:
    """Ends this process with one clear line when another one is lost, for which leaving JAX in order would wait."""
    again = f"start all of them again to go on from {newest}" if newest else "start all of them again"
    where = f"process {jax.process_index()} of {jax.process_count()}"
    print(f"diffbir_jax.train: {where} lost another process ({reason(error)}); {again}", file=sys.stderr, flush=True)
    os._exit(LOST)
