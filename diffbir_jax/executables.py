"""Compiled programs kept on disk, so that a second start neither traces nor compiles."""

import functools
import hashlib
import os
import pickle
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.sharding import Mesh

from diffbir_jax.atomic import write_whole
from diffbir_jax.errors import InputError, reason
from diffbir_jax.home import compiled_folder

MOST = 200  # programs on disk; the longest unused go first

compiled: list[float] = []  # seconds that each program took to compile
_readers = ThreadPoolExecutor(2, "programs")


class Program:
    """A compiled program, from disk where it was kept: it is read in the background until it first runs.

    What cannot be read or run is made anew; where nothing can be written nothing is kept.

    Args:
        key: all that the program depends on but this package's source and JAX's version; its `repr` says so in full. None: it is
            not kept, as one that calls back into Python cannot be.
        mesh: the devices it runs on.
        make: compiles it.
    """

    def __init__(self, key: Any, mesh: Mesh, make: Callable[[], jax.stages.Compiled]):
        self._place = None if key is None else folder() / f"{_name(key, mesh)}.program"
        self._reading = None
        if self._place is None or not os.path.exists(self._place):
            self._make(make)
        else:
            self._reading = _readers.submit(self._read, mesh)

    def _read(self, mesh: Mesh) -> Callable:
        packed = pickle.loads(self._place.read_bytes())
        run = serialize_executable.deserialize_and_load(*packed, execution_devices=list(mesh.devices.flat))
        os.utime(self._place)
        return run

    def __call__(self, make: Callable[[], jax.stages.Compiled], *arguments: Any) -> Any:
        """Runs it; `make` makes one from disk anew that fails at first: truncated, of another jaxlib, or for want of a function."""
        if self._reading is not None:
            reading, self._reading = self._reading, None
            try:
                self._run = reading.result()
                return jax.block_until_ready(self._run(*arguments))
            except Exception as error:  # whatever it is, compiling helps
                self._make(make, error)
        return self._run(*arguments)

    def _make(self, make: Callable[[], jax.stages.Compiled], error: Exception | None = None) -> None:
        if error:
            print(f"warning: {self._place} is made anew: {reason(error)}", file=sys.stderr)
        begun = time.perf_counter()
        self._run = make()
        if self._place is not None:
            self._keep()
        compiled.append(time.perf_counter() - begun)

    def _keep(self) -> None:
        try:
            packed = pickle.dumps(serialize_executable.serialize(self._run))
            self._place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._place, lambda path: path.write_bytes(packed))
            _prune(self._place.parent)
        except (OSError, InputError, ValueError, jax.errors.JaxRuntimeError):  # no place to write, or a device without: it runs
            pass


def folder() -> Path:
    """Where programs are kept."""
    return compiled_folder() / "programs"


def _name(key: Any, mesh: Mesh) -> str:
    devices = [(d.id, d.platform, d.device_kind) for d in mesh.devices.flat]
    settings = os.environ.get("XLA_FLAGS"), jax.config.jax_default_matmul_precision
    facts = (key, devices, jax.__version__, jax.devices()[0].client.platform_version, settings, _source())
    return hashlib.sha256(repr(facts).encode()).hexdigest()


@functools.cache
def _source() -> str:
    """A hash of this package's source."""
    paths = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def _prune(folder: Path) -> None:
    kept = sorted(folder.glob("*.program"), key=lambda path: path.stat().st_mtime)
    for path in kept[:-MOST]:
        path.unlink(missing_ok=True)
