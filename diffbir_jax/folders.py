"""Photographs in files, restored: read ahead, run in batches, written behind."""

import collections
import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from diffbir_jax import __version__, programs
from diffbir_jax.captions import Caption
from diffbir_jax.errors import InputError
from diffbir_jax.imaging.paths import prepare_folder
from diffbir_jax.imaging.reading import Picture, read_picture
from diffbir_jax.imaging.resizing import resize, target_size
from diffbir_jax.imaging.writing import write_picture, write_sidecar
from diffbir_jax.model import Model
from diffbir_jax.options import FileOptions, RestoreOptions
from diffbir_jax.pipeline import Job, Result, local_mesh, restore_jobs
from diffbir_jax.programs import Draws
from diffbir_jax.traces import write_trace

AHEAD = 2  # photographs read before they are needed, beside those of a batch


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the results that a photograph is to have."""

    scale: str  # in the results' names; "" where all have one guidance scale
    sample: str  # the same of the seed
    options: RestoreOptions

    def named(self, target: Path) -> Path:
        """The file it is written to."""
        return target.with_name(f"{target.stem}{self.scale}{self.sample}{target.suffix}")

    def results(self, target: Path) -> list[Path]:
        """The files of a photograph that is done: with several guidance scales the strip too."""
        return [self.named(target), *([self.strip(target)] if self.scale else [])]

    def strip(self, target: Path) -> Path:
        """The file that all guidance scales are written to."""
        return target.with_name(f"{target.stem}_strip{self.sample}{target.suffix}")


@dataclasses.dataclass(frozen=True)
class Order:
    """One result: from where, to where, and how."""

    source: Path
    target: Path
    strip: Path
    picture: Picture
    options: RestoreOptions
    notes: tuple[str, ...]  # about the photograph, and what worked in tiles


@dataclasses.dataclass(frozen=True)
class Event:
    """What became of a photograph: "restored", "strip", "failed" or "skipped", with numbers and words for a log."""

    kind: str
    source: Path
    about: dict[str, Any]


def variants(options: RestoreOptions, scales: Sequence[float], samples: int) -> list[Variant]:
    """Every guidance scale with every seed, named where there are several."""
    return [
        Variant(
            f"_s{np.format_float_positional(scale, trim='-')}" if len(scales) > 1 else "",
            f"_{i + 1}" if samples > 1 else "",
            dataclasses.replace(options, guidance_scale=scale, seed=(options.seed + i) % 2**32),
        )
        for i in range(samples)
        for scale in scales
    ]


@dataclasses.dataclass
class Folder:
    """How photographs are restored.

    Attributes:
        about: what is written into the results about the model: name, task, precision.
        made: the results of every photograph, their options completed; those that differ in guidance alone are also written as a
            strip.
        caption: see `captions_of`.
        draws: replayed instead of noise from the seed.
        output: the folder that all results are in or below.
        dump: a folder for what came before the results, in the same tree.
        on_step: see `restore_jobs`.
    """

    model: Model
    about: dict[str, Any]
    made: Sequence[Variant]
    files: FileOptions
    caption: Caption
    output: Path
    draws: Draws | None = None
    dump: Path | None = None
    on_step: Callable[[int], Any] | None = None
    failed: list[Event] = dataclasses.field(default_factory=list)
    series: dict[Any, list[tuple[str, np.ndarray]]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))

    def run(self, inputs: Sequence[tuple[Path, Path]]) -> Iterator[Event]:
        """Restores (photograph, result) pairs; what came of each, as soon as it is known."""
        there = (all(path.exists() for v in self.made for path in v.results(target)) for _, target in inputs)
        skipped = {pair for pair, done in zip(inputs, there, strict=True) if done} if self.files.skip_existing else set()
        yield from (Event("skipped", source, {"output": str(target)}) for source, target in inputs if (source, target) in skipped)
        inputs = [pair for pair in inputs if pair not in skipped]
        mesh = local_mesh(len(inputs) * len(self.made))
        with ThreadPoolExecutor(2) as pool:
            jobs = self._jobs(_ahead(pool, self._read, inputs, mesh.size * self.files.batch_size + AHEAD))
            writing: collections.deque[Future[Event]] = collections.deque()
            begun, compiling = time.perf_counter(), sum(programs.compiled)
            for order, result in restore_jobs(jobs, mesh, self.files.batch_size, self.on_step):
                now, compiled = time.perf_counter(), sum(programs.compiled)
                times = {"seconds": now - begun - (compiled - compiling), "compiling": compiled - compiling}
                writing.append(pool.submit(self._write, order, result, times))
                writing.extend(self._strip(pool, order, result))
                while writing and (writing[0].done() or len(writing) > AHEAD):
                    yield writing.popleft().result()
                yield from self._failures()
                begun, compiling = time.perf_counter(), sum(programs.compiled)
            yield from (future.result() for future in writing)
        yield from self._failures()

    def _strip(self, pool: ThreadPoolExecutor, order: Order, result: Result) -> Iterator[Future[Event]]:
        """Once a photograph has been restored with every guidance scale: all of them in a row."""
        scales = sorted({variant.options.guidance_scale for variant in self.made})
        if len(scales) == 1:
            return
        held = self.series[order.source, order.options.seed]
        held.append((f"guidance {order.options.guidance_scale:g}", result.image))
        if len(held) == len(scales):
            labels, images = zip(*self.series.pop((order.source, order.options.seed)), strict=True)
            yield pool.submit(self._write_strip, order, strip(images, labels))

    def _write_strip(self, order: Order, image: np.ndarray) -> Event:
        try:
            write_picture(order.strip, image)
        except InputError as error:
            return Event("failed", order.source, {"error": str(error)})
        return Event("strip", order.source, {"output": str(order.strip)})

    def _failures(self) -> Iterator[Event]:
        while self.failed:
            yield self.failed.pop(0)

    def _read(self, pair: tuple[Path, Path]) -> tuple[Path, Path, Picture, str] | Event:
        source, target = pair
        try:
            picture = read_picture(source, max_megapixels=self.files.max_megapixels)
            return source, target, picture, self.caption(source, picture.pixels)
        except InputError as error:
            return Event("failed", source, {"error": str(error)})

    def _jobs(self, read: Iterable[tuple[Path, Path, Picture, str] | Event]) -> Iterator[tuple[Order, Job]]:
        for found in read:
            if isinstance(found, Event):
                self.failed.append(found)
                continue
            source, target, picture, caption = found
            for variant in self.made:
                options = captioned(variant.options, caption)
                try:
                    self._check_size(picture, options)
                    job = Job(self.model, picture.pixels, options, self.draws, self.dump is not None, self.files.batch_size)
                except InputError as error:
                    self.failed.append(Event("failed", source, {"error": f"{source}: {error}"}))
                    break
                tiled = [stage for stage, tiled in job.tiled._asdict().items() if tiled]
                notes = (*picture.notes, *([f"tiled: {' '.join(tiled)}"] if tiled else []))
                yield Order(source, variant.named(target), variant.strip(target), picture, options, notes), job

    def _check_size(self, picture: Picture, options: RestoreOptions) -> None:
        height, width = target_size(picture.pixels.shape[:2], options.upscale, options.long_side)
        if height * width > self.files.max_megapixels * 1e6:
            raise InputError(f"the output would be {width}x{height}; ask for less, or raise --max-megapixels")

    def _write(self, order: Order, result: Result, times: dict[str, float]) -> Event:
        """Writes a result and what goes with it; an event of what came of it."""
        (h, w), (height, width) = order.picture.pixels.shape[:2], result.image.shape[:2]
        record = self.about | {"options": _plain(order.options), "seed": order.options.seed, "version": __version__}
        text = {"Software": f"diffbir_jax {__version__}", "diffbir_jax": json.dumps(record)}
        alpha = order.picture.alpha
        alpha = None if alpha is None else np.clip(resize(alpha[..., None], (height, width)), 0, 1)[..., 0]
        exif = order.picture.exif if self.files.keep_metadata else None
        sizes = {"size": [w, h], "output_size": [width, height]}
        try:
            if not np.isfinite(result.image).all():
                raise InputError(f"{order.source}: the result is not finite; a smaller --guidance-scale or --cfg may help")
            prepare_folder(order.target.parent)
            if self.dump:
                trace = (self.dump / order.target.relative_to(self.output)).with_suffix(".safetensors")
                prepare_folder(trace.parent)
                write_trace(trace, result.trace)
            if self.files.sidecar:
                more = {"input": str(order.source), "output": str(order.target), "notes": list(order.notes)}
                write_sidecar(order.target.with_suffix(".json"), record | more | sizes)
            write_picture(order.target, result.image, alpha, self.files.bits, exif, text)  # last: --skip-existing looks for it
        except InputError as error:
            return Event("failed", order.source, {"error": str(error)})
        more = {"output": str(order.target), "notes": list(order.notes), "seed": order.options.seed}
        return Event("restored", order.source, more | sizes | times)


def captioned(options: RestoreOptions, caption: str) -> RestoreOptions:
    """Completed options whose prompt begins with the photograph's own caption, as in the original."""
    return dataclasses.replace(options, prompt=", ".join(filter(None, (caption, options.prompt))))


def _plain(options: RestoreOptions) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(options).items() if v is not None}


def _ahead(pool: ThreadPoolExecutor, work: Callable, items: Sequence, count: int) -> Iterator:
    """`work` of all items in order, done in the pool for up to `count` of them before they are asked for."""
    waiting = collections.deque(pool.submit(work, item) for item in items[:count])
    for i in range(len(items)):
        done = waiting.popleft().result()
        if count + i < len(items):
            waiting.append(pool.submit(work, items[count + i]))
        yield done


def strip(images: Sequence[np.ndarray], labels: Sequence[str]) -> np.ndarray:
    """Images of one size in a row, each under its label; float32 [H, W, 3] in [0, 1]."""
    height = max(24, images[0].shape[0] // 20)
    return np.concatenate(
        [np.concatenate([_label(text, height, x.shape[1]), x]) for text, x in zip(labels, images, strict=True)], 1
    )


def _label(text: str, height: int, width: int) -> np.ndarray:
    bar = np.full((height, width, 3), 255, np.uint8)
    cv2.putText(bar, text, (height // 4, int(height * 0.7)), cv2.FONT_HERSHEY_SIMPLEX, height / 40, (0, 0, 0), 1, cv2.LINE_AA)
    return np.float32(bar) / 255
