"""A prompt for every photograph: from a CSV file, or from a function that looks at it."""

import csv
import importlib
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from diffbir_jax.errors import InputError, reason
from diffbir_jax.options import FileOptions

Caption = Callable[[Path, np.ndarray], str]  # (path, float32 [H, W, 3] in [0, 1]) -> what the photograph shows, "" if unknown


def captions_of(files: FileOptions, paths: list[Path]) -> tuple[Caption, list[str]]:
    """How the photographs get their captions, and those that are known beforehand.

    Raises:
        InputError: the file cannot be read, is not "file,prompt" or names none of the photographs; there is no such function.
    """
    if files.captioner:
        function, lock = find_captioner(files.captioner), threading.Lock()  # photographs are read in several threads
        return lambda path, image: _call(function, lock, files.captioner, path, image), []
    table = read_captions(Path(files.captions)) if files.captions else {}
    known = {path: caption for path in paths if (caption := table.get(str(path)) or table.get(path.name) or table.get(path.stem))}
    if table and not known:
        raise InputError(f"{files.captions} names none of the photographs; its first is {next(iter(table))}")
    return lambda path, image: known.get(path, ""), list(known.values())


def read_captions(path: Path) -> dict[str, str]:
    """Prompts by file: path, name or name without extension. A first line "file,prompt" is a heading.

    Raises:
        InputError: the file cannot be read, or a line has not two columns.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"the captions {path} cannot be read: {error}") from None
    for number, row in rows:
        if len(row) != 2:
            raise InputError(f'{path} line {number} has {len(row)} columns; give file,prompt, with "…" around commas')
    return {str(Path(file.strip())): prompt.strip() for _, (file, prompt) in rows if (file, prompt) != ("file", "prompt")}


def find_captioner(name: str) -> Callable[[np.ndarray], str]:
    """The function "module:function".

    Raises:
        InputError: it is not written so, or cannot be imported.
    """
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except Exception as error:  # of any kind: the module is the user's
        why = f"{type(error).__name__}: {reason(error)}"
        raise InputError(f"captioner is {name!r} ({why}); give module:function, the module on PYTHONPATH") from None


def _call(function: Callable[[np.ndarray], str], lock: threading.Lock, name: str, path: Path, image: np.ndarray) -> str:
    try:
        with lock:
            caption = function(image)
    except Exception as error:  # of any kind: the function is the user's
        raise InputError(f"{path}: {name} failed: {type(error).__name__}: {reason(error)}") from error
    if not isinstance(caption, str):
        raise InputError(f"{path}: {name} returned {type(caption).__name__}; it should return a prompt, a str")
    return caption
