"""Which files are read, and where their results go."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from os.path import realpath  # unlike Path.resolve it takes a link to itself
from pathlib import Path

from diffbir_jax.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".jp2", ".ppm", ".pgm")
HEIC = (".heic", ".heif")  # with the extra `heif`


def images_in(folder: Path) -> list[Path]:
    """The image files below a folder by their extension, in any case of letters, sorted; HEIC, and what is hidden, left out."""
    shown = (p for p in folder.rglob("*") if not any(part.startswith(".") for part in p.relative_to(folder).parts))
    return sorted(p for p in shown if p.suffix.lower() in EXTENSIONS and p.is_file())


def outputs_for(inputs: Iterable[str | Path], output: str | Path, suffix: str = ".png") -> list[tuple[Path, Path]]:
    """Every image that `inputs` stand for, in the order given, and the file to write for it.

    A file goes to OUTPUT/NAME.png. A folder is walked with its subfolders, sorted, and its tree mirrored under `output`: hidden
    files and folders, links to folders and `output` itself are left out. Images in one folder that would have one result get it
    by their full name: a.jpg.png, a.png.png. An image named twice is taken once. Missing files, and folders without images
    unless nothing else was given, are passed on: `read_picture` tells about each.

    Raises:
        InputError: no image is found, a folder cannot be read, `output` is an input, two images still have one result, or a
            result would overwrite an input.
    """
    inputs, output = [Path(i) for i in inputs], Path(output)
    for given in inputs:
        if realpath(given) == realpath(output):
            raise InputError(f"{given} is input and output; give another folder for the results")
    found = {}  # by the real path, the first mention of each
    for path, place in (row for given in inputs for row in (_walk(given, output) or [(given, Path())])):
        found.setdefault(realpath(path), (path, place))
    paths = [path for path, _ in found.values()]
    _check_found(inputs, paths)
    targets = [output / target for target in _targets(paths, [place for _, place in found.values()], suffix)]
    for target in targets:
        if realpath(target) in found:
            raise InputError(f"{target} is an input and would be overwritten; give another folder for the results")
    return list(zip(paths, targets, strict=True))


def prepare_folder(folder: str | Path) -> Path:
    """Makes the folder and its parents where missing, and sees that files can be written there.

    Raises:
        InputError: it cannot be made, is a file, or is not writable.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to the folder {folder}: permission denied")
    return folder


def _walk(given: Path, output: Path) -> list[tuple[Path, Path]]:
    """The images below a folder, each with its place in the tree; none for a file."""
    rows = []
    for root, folders, names in os.walk(given, onerror=_refuse):
        here = Path(root)
        folders[:] = sorted(n for n in folders if not n.startswith(".") and realpath(here / n) != realpath(output))
        images = (n for n in sorted(names) if not n.startswith(".") and Path(n).suffix.lower() in EXTENSIONS + HEIC)
        rows += [(here / name, here.relative_to(given)) for name in images]
    return rows


def _refuse(error: OSError) -> None:
    if os.path.isdir(error.filename):  # else `read_picture` tells
        raise InputError(f"cannot read the folder {error.filename}: {error.strerror}") from error


def _targets(paths: Sequence[Path], places: Sequence[Path], suffix: str) -> list[Path]:
    """PLACE/STEM.png, or PLACE/NAME.png where two have that in common."""
    short = Counter((place, path.stem) for path, place in zip(paths, places, strict=True))
    targets = [
        place / f"{path.stem if short[place, path.stem] == 1 else path.name}{suffix}"
        for path, place in zip(paths, places, strict=True)
    ]
    for target, times in Counter(targets).items():
        if times > 1:
            same = [str(path) for path, t in zip(paths, targets, strict=True) if t == target]
            raise InputError(f"{' and '.join(same)} would be written to the same file {target}; write them to different folders")
    return targets


def _check_found(inputs: Sequence[Path], found: Sequence[Path]) -> None:
    if inputs and all(map(os.path.isdir, found)):
        raise InputError(no_images(inputs[0]))


def no_images(folder: Path) -> str:
    """What to say of a folder without images."""
    return f"{folder} is a folder without images; it should hold files that end in {', '.join(EXTENSIONS)}"
