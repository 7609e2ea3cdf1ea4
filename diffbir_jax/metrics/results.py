"""Measuring images, and writing what was found: CSV, JSON, HTML and a table of text."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from diffbir_jax.atomic import write_whole
from diffbir_jax.errors import InputError
from diffbir_jax.imaging.reading import read_picture
from diffbir_jax.metrics import report, summary
from diffbir_jax.metrics.pairing import Case, listed
from diffbir_jax.metrics.table import METRICS, Measure, SetMeasure

Photo = Float[np.ndarray, "H W 3"]
Loaded = Mapping[str, Measure | SetMeasure]


class Row(NamedTuple):
    """An image: its size (width, height), what was measured (None: could not be), features for sets, pictures, and why not."""

    name: str
    size: tuple[int, int]
    values: dict[str, float | None]
    features: dict[Callable, tuple[np.ndarray, np.ndarray]]
    pictures: dict[str, str]
    notes: list[tuple[str, str]]  # metric, why not


def measure(case: Case, loaded: Loaded, pictured: bool = True) -> Row:
    """All metrics of one image; its pictures for the report where asked for.

    Raises:
        InputError: a file cannot be read, or the reference has another size.
    """
    image = read_picture(case.restored).pixels
    reference = read_picture(case.reference).pixels if case.reference else None
    height, width = image.shape[:2]
    if reference is not None and reference.shape != image.shape:
        other = f"{reference.shape[1]}x{reference.shape[0]}"
        raise InputError(f"{case.restored} is {width}x{height} and {case.reference} is {other}; both must have the same size")
    values, notes = _values(loaded, image, reference)
    sets = {each.features for each in loaded.values() if isinstance(each, SetMeasure)}
    features = {of: (of(image), of(reference)) for of in sets}
    return Row(case.name, (width, height), values, features, _pictures(case, image, reference) if pictured else {}, notes)


def _values(loaded: Loaded, image: Photo, reference: Photo | None) -> tuple[dict[str, float | None], list[tuple[str, str]]]:
    values, notes = {}, []
    for metric, function in loaded.items():
        if isinstance(function, SetMeasure):
            continue
        try:
            values[metric] = function(image, reference)
        except InputError as error:
            values[metric] = None
            notes.append((metric, str(error)))
    return values, notes


def _pictures(case: Case, image: Photo, reference: Photo | None) -> dict[str, str]:
    views = {title: read_picture(path).pixels for title, path in case.others.items()} | {"restored": image}
    views |= {} if reference is None else {"reference": reference}
    return {title: report.picture(view) for title, view in views.items()}


class Results:
    """What was found about a folder of images.

    Attributes:
        about: the folders and options.
        rows: one an image.
        metrics: name -> title, whether higher is better, what it is, and its summary.
        missing: name -> why it is not available.
        reasons: a line for each reason for which a metric could not measure images.
        notes: those, and before them a line for each image that was left out.
    """

    def __init__(self, about: Mapping[str, Any], rows: Sequence[Row], loaded: Loaded, missing: Mapping[str, str], notes: list[str]):
        self.about, self.rows, self.missing = about, rows, dict(missing)
        self.reasons = _grouped(rows)
        self.notes = [*notes, *self.reasons]
        self.columns = [name for name, each in loaded.items() if not isinstance(each, SetMeasure)]
        self.metrics = {name: _described(name) | {"summary": self._summary(name, each)} for name, each in loaded.items()}
        for name in [name for name, each in self.metrics.items() if each["summary"] is None]:
            del self.metrics[name]
            self.missing[name] = "needs two images"

    def _summary(self, name: str, each: Measure | SetMeasure) -> dict[str, Any] | None:
        if not isinstance(each, SetMeasure):
            return summary.summarise([row.values[name] for row in self.rows])
        if len(self.rows) < 2:
            return None
        ours, theirs = (np.stack(part) for part in zip(*(row.features[each.features] for row in self.rows), strict=True))
        images, features = ours.shape
        found = {"value": each.distance(ours, theirs), "images": images, "features": features}
        warning = f"{images} images are fewer than {features} features: compare only with values from the same images"
        return found | ({"warning": warning} if images < features else {})

    def write(self, folder: Path) -> None:
        """metrics.csv, summary.json and report.html."""
        rows = [{"image": r.name, "width": r.size[0], "height": r.size[1], **r.values} for r in self.rows]
        files = {
            "metrics.csv": summary.to_csv(rows, ["image", "width", "height", *self.columns]),
            "summary.json": summary.to_json(self._json()),
            "report.html": self._html(),
        }
        for name, text in files.items():
            write_whole(folder / name, lambda file, text=text: file.write_text(text, encoding="utf-8"))

    def _json(self) -> dict[str, Any]:
        found = {name: {k: v for k, v in each.items() if k not in ("name", "set")} for name, each in self.metrics.items()}
        found = {name: {k: v for k, v in each.items() if k != "summary"} | each["summary"] for name, each in found.items()}
        return {**self.about, "images": len(self.rows), "metrics": found, "not_available": self.missing, "notes": self.notes}

    def _html(self) -> str:
        about = f"{len(self.rows)} images" + "".join(f" · {key} {value}" for key, value in self.about.items())
        rows = [{"name": r.name, "size": r.size, "values": r.values, "pictures": r.pictures} for r in self.rows]
        data = {
            "about": about, "metrics": list(self.metrics.values()), "rows": rows, "not_available": self.missing,
            "notes": self.notes, "pictured": sum(bool(row.pictures) for row in self.rows),
        }  # fmt: skip
        title = "Restored against reference" if "reference" in self.about else "Restored images"
        return report.page(title, summary.plain(data))

    def text(self) -> str:
        """A table of the means, what is not available, and why images were not measured."""
        lines = [("metric", "value", "95% interval", "better", "images")]
        for name, each in self.metrics.items():
            found = each["summary"]
            value = found.get("value", found.get("mean"))
            interval = " to ".join(f"{end:.4f}" for end in found.get("ci95") or ())
            better = "higher" if each["higher"] else "lower"
            lines.append((name, "-" if value is None else f"{value:.4f}", interval or "-", better, str(found["images"])))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([*shown, *(f"{name}: not available, {why}" for name, why in self.missing.items()), *self.reasons])


def _grouped(rows: Sequence[Row]) -> list[str]:
    """A line for each reason for which a metric could not measure images."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for note in row.notes:
            found.setdefault(note, []).append(row.name)
    counts = {note: f"{len(names)} image{'s' * (len(names) > 1)}" for note, names in found.items()}
    return [f"{note[0]} of {counts[note]}: {note[1]} ({listed(names)})" for note, names in found.items()]


def _described(name: str) -> dict[str, Any]:
    metric = METRICS[name]
    return {"name": name, "title": metric.title, "higher": metric.higher, "about": metric.about, "set": metric.over_set}
