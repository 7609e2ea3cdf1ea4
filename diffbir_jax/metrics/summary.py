"""Numbers of images put together: means with bootstrap intervals, as CSV and as JSON."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RESAMPLES = 2000


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """The 95% percentile bootstrap interval of the mean over images, from 2000 resamples; None for fewer than two values."""
    if len(values) < 2:
        return None
    rng, values = np.random.default_rng(seed), np.asarray(values, np.float64)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def summarise(values: Sequence[float | None]) -> dict[str, Any]:
    """Count, mean, its interval, deviation, median, least and greatest of what was measured (None was not).

    Infinities, as PSNR has for equal images, are counted apart.
    """
    measured = [value for value in values if value is not None]
    finite = [value for value in measured if math.isfinite(value)]
    about: dict[str, Any] = {"images": len(measured), "not_measured": len(values) - len(measured)}
    if len(finite) < len(measured):
        about["infinite_left_out"] = len(measured) - len(finite)
    if finite:
        about |= {"mean": float(np.mean(finite)), "ci95": interval(finite), "std": float(np.std(finite))}
        about |= {"median": float(np.median(finite)), "min": min(finite), "max": max(finite)}
    return about


def to_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """One line an image; empty where nothing was measured."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_json(value: Any) -> str:
    """JSON that every reader takes: infinities as texts."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Dicts, lists and numbers as JSON has them: infinities as texts."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
