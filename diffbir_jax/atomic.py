"""Files that appear whole or not at all."""

import contextlib
import secrets
from collections.abc import Callable
from pathlib import Path

from diffbir_jax.errors import InputError, reason


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a hidden file beside `path`, then renames it to `path`.

    Raises:
        InputError: the file cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name[:50]}.{secrets.token_hex(8)}.part")  # other machines may have this process id
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors leaves a file that only its owner reads
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        raise InputError(f"cannot write {path}: {reason(error)}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
