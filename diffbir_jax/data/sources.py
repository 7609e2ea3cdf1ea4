"""Where training photos come from: random access sources, as Grain reads them."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from diffbir_jax.errors import InputError
from diffbir_jax.imaging.files import images_in, read_image_uint8

log = logging.getLogger(__name__)


class ImageFolder:
    """The photos of a folder and its subfolders, in the order of their names, uint8 RGB.

    A photo that cannot be read, or whose shorter side is under `min_side`, is named once in the log; the next one stands in for it.

    Args:
        folder: where to look.
        min_side: pixels.
        cache: keep every decoded photo in memory (3 bytes a pixel; a worker process keeps its own).

    Raises:
        InputError: not a folder, or no image in it; on reading, when no photo of it can be used.
    """

    def __init__(self, folder: str | Path, min_side: int = 16, cache: bool = False):
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; give a folder of photos")
        self.paths = images_in(folder, recursive=True)
        if not self.paths:
            raise InputError(f"no image in {folder}; give a folder of photos")
        self.folder, self.min_side, self.cache = folder, min_side, cache
        self._bad: set[int] = set()
        self._photos: dict[int, UInt8[np.ndarray, "H W 3"]] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        for candidate in range(index, index + len(self)):
            photo = self._photo(candidate % len(self))
            if photo is not None:
                return photo
        raise InputError(f"no image in {self.folder} can be used; it should hold photos of at least {self.min_side} pixels a side")

    def __repr__(self) -> str:
        return f"ImageFolder({str(self.folder)!r}, {len(self)} files)"

    def __getstate__(self) -> dict[str, Any]:
        """A copy for another process travels without the photos."""
        return self.__dict__ | {"_photos": {}}

    def _photo(self, index: int) -> UInt8[np.ndarray, "H W 3"] | None:
        if index in self._photos:
            return self._photos[index]
        if index in self._bad:
            return None
        try:
            photo = read_image_uint8(self.paths[index], self.min_side)
        except InputError as error:
            self._bad.add(index)
            log.warning("skipped: %s", error)
            return None
        if self.cache:
            self._photos[index] = photo
        return photo
