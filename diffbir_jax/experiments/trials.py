"""What the experiments share: crops and their degraded copies, restoring and timing, measuring, and the files that are written.

OUTPUT holds `originals`, `inputs` (degraded, of the same size) and `small` (before they were enlarged), `results/NAME` of every
setting, a line an image in EXPERIMENT.csv, means and what was asked for in EXPERIMENT.json, plots in EXPERIMENT.png, and sheet.png.
"""

import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from diffbir_jax import __version__, cli
from diffbir_jax.errors import InputError

ALWAYS = ("psnr", "ssim", "sharpness", "colour")
PRINTED = ("psnr", "ssim", "niqe", "brisque", "sharpness", "colour")
ROWS, LEAST_CELL = 4, 160  # of the sheet: crops, and pixels of one


@dataclass(frozen=True)
class TrialOptions:
    """What every experiment is told.

    Raises:
        InputError: a value out of its range.
    """

    model: str = field(default="tiny", metadata={"help": "tiny, a preset, or a model folder"})
    recipe: str = field(default="codeformer+realesrgan", metadata={"help": "of the degradations, see diffbir_jax.degrade"})
    set: list[str] | None = field(
        default=None, metadata={"help": "a range of the recipe, as noise=0,5 (repeatable)", "metavar": "FIELD=VALUE"}
    )
    crops: int | None = field(default=None, metadata={"help": "how many, of the photographs in turn; None: one of each"})
    size: int = field(default=256, metadata={"help": "side of a crop in pixels; a larger photograph is cut at random"})
    seed: int = field(default=0, metadata={"help": "of crops, degradations and restorations"})
    metrics: str = field(default="niqe,brisque", metadata={"help": f"besides {', '.join(ALWAYS)}; see diffbir_jax.evaluate"})
    weights: Path | None = field(default=None, metadata={"help": "folder of packages that metrics need, as for evaluate"})

    def __post_init__(self) -> None:
        for name, least in (("size", 64), ("seed", 0), ("crops", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise InputError(f"{name} is {value}; give at least {least}")


class Trial(NamedTuple):
    """A crop, float32 [S, S, 3] in [0, 1]; its degraded copy as the networks get it; that copy before it was enlarged."""

    name: str
    original: np.ndarray
    lq: np.ndarray
    small: np.ndarray


class Timed(NamedTuple):
    """Images, seconds that one took, and seconds that went into compiling."""

    images: list[np.ndarray]
    seconds: float
    compiling: float


def make_parser(prog: str, about: str | None, options: type[TrialOptions]) -> cli.Parser:
    """The arguments of an experiment: a folder of photographs, a folder to write, a flag for every option."""
    parser = cli.Parser(prog=prog, description=about)
    parser.add_argument("photographs", type=Path, help="folder of photographs, of which crops are degraded")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    cli.add_options(parser, options)
    return parser


def split(text: str) -> list[str]:
    """The parts of a text between commas, each once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def read_trials(folder: Path, output: Path, options: TrialOptions) -> tuple[list[Trial], list[str]]:
    """The crops and their degraded copies, sorted by name, and a line for each photograph that gives none.

    A crop is called as its photograph, with its folder. What lies below `output` is no photograph. If fewer crops than photographs
    are asked for, chance chooses; what is drawn for a crop depends on the seed, its name, and how often that was cut before.

    Raises:
        InputError: no such folder, recipe, range of it or photograph, none is large enough, or two crops would share a name.
    """
    from diffbir_jax.degradation.recipes import find_recipe
    from diffbir_jax.degrade import read_setting
    from diffbir_jax.imaging.paths import outputs_for
    from diffbir_jax.imaging.reading import read_image

    recipe = find_recipe(options.recipe, dict(map(read_setting, options.set or ())))
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give a folder of photographs")
    named = [(target.relative_to(output).with_suffix("").as_posix(), path) for path, target in outputs_for([folder], output)]
    if options.crops is not None:
        named = [named[i] for i in np.random.default_rng(options.seed).permutation(len(named))]
    photos, lines = {}, []
    for name, path in named:
        if len(photos) == options.crops:
            break
        try:
            photo = read_image(path)
            if min(photo.shape[:2]) < options.size:
                raise InputError(f"{path} is {photo.shape[1]}x{photo.shape[0]}, smaller than a crop of {options.size}; left out")
            photos[name] = photo
        except InputError as error:
            lines.append(str(error))
    if not photos:
        raise InputError(f"no photograph of {folder} holds a crop of {options.size} pixels; give a smaller --size")
    names = list(photos)
    cuts = [divmod(i, len(names)) for i in range(options.crops or len(names))]
    trials = [make_trial(names[i], photos[names[i]], turn, recipe, options) for turn, i in cuts]
    for name, times in Counter(trial.name for trial in trials).items():
        if times > 1:
            raise InputError(f"two crops would be called {name}; rename that photograph, or ask for fewer --crops")
    return sorted(trials, key=lambda trial: trial.name), lines


def make_trial(name: str, photo: np.ndarray, turn: int, recipe: Any, options: TrialOptions) -> Trial:
    """A crop of a photograph that was cut `turn` times before, and its degraded copies."""
    from diffbir_jax.degradation.operations import apply
    from diffbir_jax.degradation.recipes import draw

    rng, size = np.random.default_rng([options.seed, zlib.crc32(name.encode()), turn]), options.size
    y, x = (int(rng.integers(n - size + 1)) for n in photo.shape[:2])
    crop = np.ascontiguousarray(photo[y : y + size, x : x + size])
    operations = draw(recipe, rng, (size, size))
    *damage, _, quantise = operations  # the last but one enlarges again
    return Trial(f"{name}_{turn + 1}" if turn else name, crop, apply(operations, crop), apply([*damage, quantise], crop))


def restore_timed(model: Any, images: Sequence[np.ndarray], options: Any) -> Timed:
    """Restores on all local devices; the first image once more before, so that its compilation is not in the seconds."""
    from diffbir_jax import pipeline, programs

    mesh, before = pipeline.local_mesh(len(images)), sum(programs.compiled)
    pipeline.restore_batch(model, images[:1], options, mesh)
    begun, compiled = time.perf_counter(), sum(programs.compiled)
    restored = pipeline.restore_batch(model, images, options, mesh)
    compiling = sum(programs.compiled) - before
    return Timed(restored, (time.perf_counter() - begun - (sum(programs.compiled) - compiled)) / len(images), compiling)


class Bench:
    """An experiment at work.

    Args:
        name: of the experiment.
        photographs: their folder.
        output: the folder to write.
        options: see TrialOptions.

    Attributes:
        settings: what was measured so far: a record a setting, the means of its metrics among it.
        notes: a line for everything that was left out.

    Raises:
        InputError: see `read_trials`; or no such metric, or matplotlib is not installed.
    """

    def __init__(self, name: str, photographs: Path, output: Path, options: TrialOptions):
        find_matplotlib()
        from diffbir_jax.home import home
        from diffbir_jax.imaging.paths import prepare_folder
        from diffbir_jax.metrics import table

        wanted = table.find_metrics([*ALWAYS, *split(options.metrics)])
        self.name, self.options = name, options
        self.trials, self.notes = read_trials(photographs, output, options)
        for line in self.notes:
            print(f"{name}: {line}", flush=True)
        self.output = prepare_folder(output)
        self.loaded, self.missing = table.load_metrics(wanted, table.Setup(options.weights or home() / "metrics"), True)
        self.settings: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []

    @property
    def originals(self) -> list[np.ndarray]:
        return [trial.original for trial in self.trials]

    def path(self, kind: str, trial: Trial) -> Path:
        """Where a crop, a degraded copy or a result lies."""
        return self.output / kind / f"{trial.name}.png"

    def note(self, line: str) -> None:
        self.notes.append(line)
        print(f"{self.name}: {line}", flush=True)

    def add(self, name: str, images: Sequence[np.ndarray], pictures: int | None = None, **about: Any) -> dict[str, Any]:
        """Writes a setting's images, one a trial in order, and measures them; see `measure`."""
        from diffbir_jax.imaging.paths import prepare_folder
        from diffbir_jax.imaging.writing import write_picture

        for trial, image in zip(self.trials, images, strict=True):
            path = self.path(f"results/{name}", trial)
            prepare_folder(path.parent)
            write_picture(path, image)
        files = {trial.name: self.path(f"results/{name}", trial) for trial in self.trials}
        return self.measure(name, files, pictures, **about)

    def measure(self, name: str, files: Mapping[str, Path], pictures: int | None = None, **about: Any) -> dict[str, Any]:
        """Measures a setting's files, by the names of their trials; its record, which is kept.

        Args:
            pictures: of how many images the report of `evaluate`, OUTPUT/reports/NAME, shows pictures; None: no report.
            about: what the record is to say besides.

        Raises:
            InputError: none can be measured.
        """
        from diffbir_jax.imaging.paths import prepare_folder

        if not self.settings:
            self._write_trials()
        results = self._results(name, files, pictures or 0)
        if pictures is not None:
            results.write(prepare_folder(self.output / "reports" / name))
        means = {metric: each["summary"] for metric, each in results.metrics.items()}
        record = {"setting": name, **about, "images": len(results.rows), "metrics": means}
        self.settings.append(record)
        self.rows += [{"setting": name, "image": row.name, **row.values} for row in results.rows]
        self.missing |= results.missing
        for line in results.notes:
            if line not in self.notes:
                self.note(line)
        said = [f"{metric} {value:.4g}" for metric in PRINTED if (value := typical(record, metric)) is not None]
        took = f", {about['seconds']:.2f} s an image" if about.get("seconds") is not None else ""
        print(f"{name}: {', '.join(said)}{took}", flush=True)
        return record

    def _write_trials(self) -> None:
        from diffbir_jax.imaging.paths import prepare_folder
        from diffbir_jax.imaging.writing import write_picture

        for kind, part in (("originals", "original"), ("inputs", "lq"), ("small", "small")):
            for trial in self.trials:
                prepare_folder(self.path(kind, trial).parent)
                write_picture(self.path(kind, trial), getattr(trial, part))

    def _results(self, name: str, files: Mapping[str, Path], pictures: int) -> Any:
        """What `evaluate` finds about files."""
        from diffbir_jax.evaluate import measure_all
        from diffbir_jax.metrics.pairing import Case
        from diffbir_jax.metrics.results import Results

        cases = [
            Case(trial.name, files[trial.name], self.path("originals", trial), {"input": self.path("inputs", trial)})
            for trial in self.trials
            if trial.name in files
        ]
        rows, failed = measure_all(cases, self.loaded, pictures)
        about = {"version": __version__, "restored": name, "reference": "originals", "recipe": self.options.recipe}
        return Results(about, rows, self.loaded, self.missing, failed)

    def write(self, figure: Any, columns: Mapping[str, Sequence[np.ndarray]], **found: Any) -> None:
        """The table, the record, the plot, and the sheet of `columns`: images of every trial, by title."""
        from diffbir_jax.atomic import write_whole
        from diffbir_jax.imaging.writing import write_picture
        from diffbir_jax.metrics import summary

        fields = list(dict.fromkeys(key for row in self.rows for key in row))
        asked = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self.options).items()}
        record = {"experiment": self.name, "version": __version__, "options": asked, "images": len(self.trials), **found}
        record |= {"settings": self.settings, "not_available": self.missing, "notes": list(dict.fromkeys(self.notes))}
        texts = {"csv": summary.to_csv(self.rows, fields), "json": summary.to_json(record)}
        for ending, text in texts.items():
            path = self.output / f"{self.name}.{ending}"
            write_whole(path, lambda file, text=text: file.write_text(text, encoding="utf-8"))
        write_whole(self.output / f"{self.name}.png", lambda file: figure.savefig(file, format="png", dpi=110))
        write_picture(self.output / "sheet.png", sheet(columns))
        for name, why in self.missing.items():
            print(f"{name}: not available, {why}")
        print(f"{self.output / self.name}.csv, .json, .png and {self.output / 'sheet.png'}: {len(self.settings)} settings")


def typical(record: Mapping[str, Any], metric: str) -> float | None:
    """A setting's mean of a metric, or its median of the sharpness, whose distribution has a long tail; None: not measured."""
    found = record["metrics"].get(metric, {})
    return found.get("value", found.get("median" if metric == "sharpness" else "mean"))


def naturalness(settings: Sequence[Mapping[str, Any]]) -> str:
    """The metric that stands for realness in plots: NIQE where all have it, else the sharpness."""
    return "niqe" if settings and all(typical(each, "niqe") is not None for each in settings) else "sharpness"


def title_of(metric: str) -> str:
    """For an axis: the metric and which direction is better."""
    from diffbir_jax.metrics.table import METRICS

    return f"{METRICS[metric].title} ({'higher' if METRICS[metric].higher else 'lower'} is better)"


def find_matplotlib() -> None:
    """InputError: matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise InputError("the plots need matplotlib: pip install matplotlib, or the extra `measure`") from None


def make_figure(rows: int, columns: int) -> tuple[Any, Sequence[Any]]:
    """A figure, and its panels row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * columns, 4.5 * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def scatter(axes: Any, settings: Sequence[Mapping[str, Any]], labels: Sequence[str], line: bool = False) -> None:
    """Fidelity against realness: a point a setting; one that was not measured, or equals the original, has none."""
    metric = naturalness(settings)
    points = [(typical(each, "psnr"), typical(each, metric)) for each in settings]
    drawn = [point for point in points if None not in point]
    axes.plot([x for x, _ in drawn], [y for _, y in drawn], "o-" if line else "o", color="tab:blue")
    for point, label in zip(points, labels, strict=True):
        if point in drawn:
            axes.annotate(label, point, xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.set(xlabel=title_of("psnr"), ylabel=title_of(metric))
    axes.margins(0.25, 0.15)
    axes.grid(alpha=0.3)


def sheet(columns: Mapping[str, Sequence[np.ndarray]]) -> np.ndarray:
    """A few trials as rows, evenly chosen, one column a title; float32 [H, W, 3]."""
    from diffbir_jax.folders import strip

    count = len(next(iter(columns.values())))
    rows = []
    for i in np.unique(np.linspace(0, count - 1, min(ROWS, count)).round().astype(int)):
        images = [_cell(images[i]) for images in columns.values()]
        rows.append(strip(images, list(columns)) if not rows else np.concatenate(images, axis=1))
    return np.concatenate(rows)


def _cell(image: np.ndarray) -> np.ndarray:
    """Enlarged to a size at which its title can be read."""
    factor = -(-LEAST_CELL // image.shape[0])
    return image.repeat(factor, 0).repeat(factor, 1)


def as_shown(small: np.ndarray, size: int) -> np.ndarray:
    """The small degraded image, its pixels to be seen."""
    return cv2.resize(small, (size, size), interpolation=cv2.INTER_NEAREST)
