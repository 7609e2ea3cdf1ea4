"""Which restored image belongs to which reference."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from diffbir_jax.errors import InputError
from diffbir_jax.imaging.paths import images_in, no_images

SHOWN = 3


class Case(NamedTuple):
    """An image by its place and name without ending, its file, its reference's, and those only to look at, by title."""

    name: str
    restored: Path
    reference: Path | None
    others: Mapping[str, Path]


class Pairs(NamedTuple):
    """The cases sorted by name, how many results have no reference, and a line for each kind of file that is left out."""

    cases: list[Case]
    lost: int
    lines: list[str]


def pair(restored: Path, reference: Path | None, others: Mapping[str, Path | None]) -> Pairs:
    """All images of `restored` and its subfolders that have a reference, or all if no reference is given.

    A result called a.jpg.png, as `restore` writes where two inputs share a stem, belongs to a.jpg.

    Raises:
        InputError: a folder is missing or holds no images, or nothing can be paired.
    """
    results, truths = by_name(restored), by_name(reference) if reference else {}
    views = {title: by_name(folder) for title, folder in others.items() if folder}
    cases = [Case(name, path, find(truths, name), _each(views, name)) for name, path in results.items()]
    if reference is None:
        return Pairs(cases, 0, [])
    paired = [case for case in cases if case.reference]
    if not paired:
        raise InputError(f"no image of {restored} has one of the same name in {reference}, for example {cases[0].name}.png")
    lost = [case.restored for case in cases if not case.reference]
    spare = sorted(set(truths.values()) - {case.reference for case in paired})
    return Pairs(paired, len(lost), [*_lonely(lost, restored, reference), *_lonely(spare, reference, restored)])


def by_name(folder: Path) -> dict[str, Path]:
    """Images by their place and name without ending; with it where two would share one.

    Raises:
        InputError: not a folder, or one without images.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give a folder of images")
    places = {path.relative_to(folder): path for path in images_in(folder)}
    if not places:
        raise InputError(no_images(folder))
    short = Counter(place.with_suffix("") for place in places)
    return {(p if short[p.with_suffix("")] > 1 else p.with_suffix("")).as_posix(): path for p, path in sorted(places.items())}


def find(held: Mapping[str, Path], name: str) -> Path | None:
    """By the name; or, for a.jpg, the file a.jpg."""
    if name in held:
        return held[name]
    path = held.get(Path(name).with_suffix("").as_posix())
    return path if path and path.suffix == Path(name).suffix else None


def _each(views: Mapping[str, Mapping[str, Path]], name: str) -> dict[str, Path]:
    return {title: path for title, held in views.items() if (path := find(held, name))}


def _lonely(paths: list[Path], folder: Path, other: Path) -> list[str]:
    if not paths:
        return []
    named = listed([path.relative_to(folder).as_posix() for path in paths])
    return [f"{len(paths)} of {folder} left out, without an image of the same name in {other}: {named}"]


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
