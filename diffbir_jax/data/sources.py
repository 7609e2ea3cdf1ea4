"""Where training photos come from, by one string."""

import csv
import glob
from collections.abc import Sequence
from pathlib import Path

from diffbir_jax.data.photos import ImageSource, Photo
from diffbir_jax.data.records import PackedPhotos
from diffbir_jax.data.synthetic import DeadLeaves
from diffbir_jax.errors import InputError
from diffbir_jax.imaging.paths import images_in
from diffbir_jax.imaging.reading import MIN_SIDE, read_image_uint8

SHARD = ".array_record"
KINDS = "folder:FOLDER, list:FILE, arrayrecord:GLOB, tfds:NAME@SPLIT, synthetic:SEED"


def open_source(where: str | Path, cache: bool = False) -> ImageSource:
    """The photos that `where` names; one is read, so that a source of no use is refused here.

    Args:
        where: "folder:FOLDER" with its subfolders; "list:FILE", one path a line (see `read_list`); "arrayrecord:GLOB", shards of
            `diffbir_jax.data.pack`; "tfds:NAME" or "tfds:NAME@SPLIT"; "synthetic" or "synthetic:SEED". Of a path alone, the kind
            is told from what is there.
        cache: keep every decoded photo of a folder or list in memory.

    Raises:
        InputError: unknown, missing, empty, or not one photo that can be used.
    """
    kind, colon, rest = str(where).partition(":")
    if not (colon and kind in OPENERS) and where != "synthetic":
        kind, rest = _kind_of(str(where)), str(where)
    source = OPENERS[kind](rest, cache)
    source[0]
    return source


class ImageFiles(ImageSource):
    """Photos in files, each upright by its EXIF orientation.

    Args:
        paths: one a photo.
        prompts: by path; "" for the others.
        root: names are relative to it.
        min_side: a photo with a shorter side, in pixels, counts as unusable.
        cache: keep every decoded photo in memory (3 bytes a pixel; a worker process keeps its own).
    """

    def __init__(
        self, paths: Sequence[Path], prompts: dict[Path, str], root: Path, title: str, min_side: int = MIN_SIDE, cache: bool = False
    ):
        super().__init__()
        self.paths, self.prompts, self.root, self.title = paths, prompts, root, title
        self.min_side, self.cache = min_side, cache
        self._photos: dict[int, Photo] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Photo:
        if index in self._photos:
            return self._photos[index]
        path = self.paths[index]
        name = path.relative_to(self.root) if path.is_relative_to(self.root) else path
        photo = Photo(read_image_uint8(path, self.min_side), self.prompts.get(path, ""), name.as_posix())
        if self.cache:
            self._photos[index] = photo
        return photo

    def __getstate__(self) -> dict:
        """A copy for another process travels without the photos."""
        return self.__dict__ | {"_photos": {}}


class ImageFolder(ImageFiles):
    """The photos of a folder and its subfolders, in the order of their names; for the other arguments see `ImageFiles`.

    Raises:
        InputError: not a folder, or no image in it.
    """

    def __init__(self, folder: str | Path, min_side: int = MIN_SIDE, cache: bool = False):
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; give a folder of photos")
        paths = images_in(folder)
        if not paths:
            raise InputError(f"no image in {folder}; give a folder of photos")
        super().__init__(paths, {}, folder, str(folder), min_side, cache)


class ImageList(ImageFiles):
    """The photos of a list (see `read_list`), in its order; for the other arguments see `ImageFiles`."""

    def __init__(self, file: str | Path, min_side: int = MIN_SIDE, cache: bool = False):
        file = Path(file)
        prompts = {file.parent / path: prompt for path, prompt in read_list(file).items()}
        if not prompts:
            raise InputError(f"no path in {file}; give a list with one path a line")
        super().__init__(list(prompts), prompts, file.parent, str(file), min_side, cache)


def read_list(file: str | Path) -> dict[str, str]:
    """Paths and their prompts: one path a line, in UTF-8, and after a tab its prompt; a .csv has path, prompt in its columns.

    Raises:
        InputError: the file is missing or no text, or no CSV.
    """
    file = Path(file)
    try:
        lines = file.read_text("utf-8-sig").split("\n")  # not splitlines: a prompt may hold what else that takes for an end
        rows = list(csv.reader(lines) if file.suffix.lower() == ".csv" else (line.split("\t", 1) for line in lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or (error if isinstance(error, csv.Error) else "it is no text in UTF-8")
        raise InputError(f"cannot read the list {file}: {reason}; give a text file with one path a line") from None
    return {row[0].strip(): row[1].strip() if len(row) > 1 else "" for row in rows if row and row[0].strip()}


def _open_shards(pattern: str, cache: bool) -> PackedPhotos:
    shards = sorted(Path(pattern).glob(f"*{SHARD}*")) if Path(pattern).is_dir() else sorted(map(Path, glob.glob(pattern)))
    if not shards:
        raise InputError(f"no file matches {pattern}; give shards that diffbir_jax.data.pack wrote, for example 'DATA/*{SHARD}'")
    return PackedPhotos(shards, pattern)


def _open_tfds(name: str, cache: bool) -> ImageSource:
    from diffbir_jax.data.tfds import TfdsPhotos  # a second to import

    name, _, split = name.partition("@")
    return TfdsPhotos(name, split or "train")


def _open_synthetic(seed: str, cache: bool) -> DeadLeaves:
    if seed and not seed.isdecimal():
        raise InputError(f"synthetic:{seed} is no source; give synthetic, or synthetic:SEED with a whole number of at least 0")
    return DeadLeaves(seed=int(seed or 0))


def _kind_of(where: str) -> str:
    path = Path(where)
    if SHARD in path.name or (path.is_dir() and any(path.glob(f"*{SHARD}*"))):
        return "arrayrecord"
    if not where or not path.exists():
        raise InputError(f"{where!r} is no source of photos; give a folder or file that exists, or one of {KINDS}")
    return "folder" if path.is_dir() else "list"


OPENERS = {
    "folder": lambda folder, cache: ImageFolder(folder, cache=cache),
    "list": lambda file, cache: ImageList(file, cache=cache),
    "arrayrecord": _open_shards,
    "tfds": _open_tfds,
    "synthetic": _open_synthetic,
}
