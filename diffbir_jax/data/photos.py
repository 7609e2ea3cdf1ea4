"""A photo, and random access to many of them; what cannot be used is named once and replaced."""

import logging
import shutil
import tempfile
import weakref
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from diffbir_jax.errors import InputError

log = logging.getLogger(__name__)


class Photo(NamedTuple):
    """uint8 RGB, what it shows in words ("" where nobody said), and what to call it."""

    image: UInt8[np.ndarray, "H W 3"]
    prompt: str = ""
    name: str = ""


class ImageSource(ABC):
    """Photos by their index. A kind of source gives `__len__`, `read` and, for messages, `title`.

    `source[index]` never fails for one bad photo: the next usable one stands in for it, whatever was read before.
    """

    title: str

    def __init__(self):
        self._bad: set[int] = set()
        self._marks = Path(
            tempfile.mkdtemp(prefix="unusable-photos-")
        )  # one empty file each: shared with workers, which get copies
        weakref.finalize(self, shutil.rmtree, self._marks, ignore_errors=True)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Photo:
        """The photo of this index.

        Raises:
            InputError: it cannot be used; the message names it.
        """

    @property
    def unusable(self) -> int:
        """How many photos were found unusable so far, in this process and its workers."""
        return len(list(self._marks.glob("*")))

    def usable(self, index: int) -> Photo | None:
        """The photo of this index, or None after naming it in the log, once, by whichever process meets it first."""
        if index in self._bad:
            return None
        try:
            return self.read(index)
        except InputError as error:
            self._bad.add(index)
            self._name_once(index, error)
            return None

    def __getitem__(self, index: int) -> Photo:
        start = range(len(self))[index]
        for candidate in range(start, start + len(self)):
            photo = self.usable(candidate % len(self))
            if photo is not None:
                return photo
        raise InputError(f"no photo of {self.title} can be used; give a source with readable ones")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.title}, {len(self)} photos)"

    def _name_once(self, index: int, error: InputError) -> None:
        try:
            (self._marks / str(index)).touch(exist_ok=False)
        except FileExistsError:  # another process named it
            return
        except OSError:  # the source this one was copied from is gone
            pass
        log.warning("skipped (%d so far): %s", self.unusable, error)
