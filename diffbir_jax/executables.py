"""Compiled programs kept on disk, so that a second start neither traces nor compiles."""

import functools
import hashlib
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.sharding import Mesh

from diffbir_jax.atomic import write_whole
from diffbir_jax.errors import InputError
from diffbir_jax.home import compiled_folder

MOST = 200  # programs on disk; the longest unused go first


def fetch(key: Any, mesh: Mesh, make: Callable[[], jax.stages.Compiled]) -> tuple[Callable, bool]:
    """The program that `make` compiles, from disk where it was kept, and whether it had to be compiled.

    What cannot be read or run is compiled again; where nothing can be written nothing is kept.

    Args:
        key: all that the program depends on but this package's source and JAX's version; its `repr` says so in full.
        mesh: the devices it runs on.
    """
    place = folder() / f"{_name(key, mesh)}.program"

    def made() -> Callable:
        program = make()
        try:
            packed = pickle.dumps(serialize_executable.serialize(program))
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, lambda path: path.write_bytes(packed))
            _prune(place.parent)
        except (OSError, InputError):
            pass
        return program

    try:
        packed = pickle.loads(place.read_bytes())
        program = serialize_executable.deserialize_and_load(*packed, execution_devices=list(mesh.devices.flat))
        os.utime(place)
        return _checked(program, place, made), False
    except FileNotFoundError:
        pass
    except Exception as error:  # truncated, of another jaxlib: whatever it is, compiling helps
        _warn(place, error)
    return made(), True


def _checked(program: Callable, place: Path, made: Callable[[], Callable]) -> Callable:
    """A program from disk; should its first run fail, as XLA's sometimes do for want of a function, it is made anew."""
    checked = False

    def call(*arguments: Any) -> Any:
        nonlocal program, checked
        if checked:
            return program(*arguments)
        checked = True
        try:
            return jax.block_until_ready(program(*arguments))
        except jax.errors.JaxRuntimeError as error:
            _warn(place, error)
            program = made()
            return program(*arguments)

    return call


def _warn(place: Path, error: Exception) -> None:
    print(f"warning: {place} is made anew: {' '.join(str(error).split())[:200]}", file=sys.stderr)


def folder() -> Path:
    """Where programs are kept."""
    return compiled_folder() / "programs"


def _name(key: Any, mesh: Mesh) -> str:
    devices = [(d.id, d.platform, d.device_kind) for d in mesh.devices.flat]
    facts = (key, devices, jax.__version__, jax.devices()[0].client.platform_version, os.environ.get("XLA_FLAGS"), _source())
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
