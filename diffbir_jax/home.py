"""The folder where this package keeps what it need not make twice."""

import functools
import hashlib
import os
import platform
from pathlib import Path


def home() -> Path:
    """`~/.cache/diffbir_jax`, or DIFFBIR_JAX_HOME."""
    return Path(os.environ.get("DIFFBIR_JAX_HOME") or Path.home() / ".cache" / "diffbir_jax")


def compiled_folder() -> Path:
    """For compiled programs of this kind of processor: those of another may not run here."""
    return home() / "compiled" / _processor()


@functools.cache
def _processor() -> str:
    try:
        cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        cpu = platform.processor()
    return hashlib.sha256(f"{platform.machine()} {cpu}".encode()).hexdigest()[:12]
