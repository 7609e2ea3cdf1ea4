"""What the commands share: one-line errors, flags made from the fields of options, progress."""

import argparse
import dataclasses
import io
import os
import sys
import types
import typing
from collections.abc import Callable, Container, Iterable
from typing import Any, NoReturn, TypeVar

from diffbir_jax.errors import InputError

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on stderr, exit code 2; help shows the defaults."""

    def __init__(self, **kwargs: Any):
        super().__init__(formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists what it takes)\n")


def add_options(parser: argparse.ArgumentParser, cls: type, leave_out: Container[str] = ()) -> None:
    """One flag a field of the dataclass `cls`; a field's metadata holds `help`, where given `choices`, and for a list, which is
    a flag that may be repeated, `metavar`."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.name in leave_out:
            continue
        flag, kind = "--" + field.name.replace("_", "-"), hints[field.name]
        shared = {"help": field.metadata["help"], "default": field.default, "dest": field.name}
        if kind is bool:
            parser.add_argument(flag, action="store_true", **shared)
            continue
        if isinstance(kind, types.UnionType):  # int | float, or one of them or None
            kinds = set(typing.get_args(kind)) - {types.NoneType}
            kind = float if float in kinds else kinds.pop()
        if typing.get_origin(kind) is list:
            parser.add_argument(flag, action="append", metavar=field.metadata["metavar"], **shared)
            continue
        parser.add_argument(flag, type=kind, choices=field.metadata.get("choices"), **shared)


def options(args: argparse.Namespace, cls: type[T], **fixed: Any) -> T:
    """The options a parsed command line asks for; `fixed` ones instead of its.

    Raises:
        InputError: from the checks of `cls` itself.
    """
    return cls(**{f.name: getattr(args, f.name) for f in dataclasses.fields(cls)} | fixed)


def run(main: Callable[[], int], prog: str) -> int:
    """Runs a command; a user's mistake is one line and exit code 2, an interrupt exit code 130, a reader who leaves 141."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names need not be text
    try:
        return main()
    except InputError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python says so when it ends
        return 141


def each(items: Iterable[T], work: Callable[[T], str], prog: str) -> tuple[int, int]:
    """Does `work` for every item and prints the line it returns; one that fails is one line on stderr and does not stop the others.

    Returns:
        The exit code (0 all done, 1 some failed, 2 all failed), and how many were done.
    """
    done = failed = 0
    for item in items:
        try:
            print(work(item), flush=True)
            done += 1
        except InputError as error:
            print(f"{prog}: {error}", file=sys.stderr, flush=True)
            failed += 1
    return (0 if not failed else 1 if done else 2), done


def progress(what: str, total: int) -> Any:
    """A progress bar on stderr, a context manager with `update()`; quiet where that is not a terminal."""
    from tqdm import tqdm

    return tqdm(desc=what, total=total, disable=None, leave=False)
