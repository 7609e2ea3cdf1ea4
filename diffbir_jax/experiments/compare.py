"""Compare a model with other methods on the same degraded crops, by the metrics of `diffbir_jax.evaluate`.

Built in are bicubic enlargement, OpenCV's non-local means (then Lanczos), Real-ESRGAN x4plus, the model's stage 1, its result, its
result under strong guidance, and two bounds that know the original: the linear filter that comes closest to it, and itself through
the model's autoencoder. Methods of others take OUTPUT/inputs, or OUTPUT/small where they enlarge; give their images by
--method NAME=FOLDER, with the same seed.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from diffbir_jax import cli
from diffbir_jax.errors import InputError
from diffbir_jax.experiments import trials
from diffbir_jax.experiments.ablation import named_folders
from diffbir_jax.options import RestoreOptions

if TYPE_CHECKING:
    from diffbir_jax.model import Model

PROG = "diffbir_jax.experiments.compare"
RUNNERS = ("bicubic", "nlm", "realesrgan", "stage1", "result", "guided", "best-filter", "autoencoder")
HIDDEN = ("best-filter", "autoencoder")  # from the sheet
STRENGTH, PATCH, WINDOW = 10, 7, 21  # of non-local means, as OpenCV's documentation sets them
LEAST = 16  # pixels that Real-ESRGAN is given


@dataclass(frozen=True)
class CompareOptions(trials.TrialOptions):
    """What `compare` is told."""

    runners: str = field(default=",".join(RUNNERS), metadata={"help": "which of the methods that are built in"})
    guided: float = field(default=20000.0, metadata={"help": "the strong guidance scale"})
    pictures: int = field(default=100, metadata={"help": "how many images a report shows at most"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in trials.split(self.runners):
            if name not in RUNNERS:
                raise InputError(f"no runner is called {name!r}; give one or more of {','.join(RUNNERS)}")


def main(argv: list[str] | None = None) -> int:
    parser = trials.make_parser(PROG, __doc__, CompareOptions)
    parser.add_argument("--method", action="append", default=[], metavar="NAME=FOLDER", help="another's images (repeatable)")
    args = parser.parse_args(argv)
    return cli.run(lambda: _run(args), PROG)


def _run(args: argparse.Namespace) -> int:
    options = cli.options(args, CompareOptions)
    guided = RestoreOptions(guidance_scale=options.guided, seed=options.seed)
    folders = named_folders("method", args.method, RUNNERS)
    if not (wanted := trials.split(options.runners)) and not folders:
        raise InputError("no method is asked for; give --runners or --method NAME=FOLDER")
    bench = trials.Bench("compare", args.photographs, args.output, options)
    given = {name: find_results(bench, name, folder) for name, folder in folders.items()}
    from diffbir_jax.model import load_model

    model = load_model(options.model) if set(wanted) & {"stage1", "result", "guided", "autoencoder"} else None
    columns = {"input": [trials.as_shown(trial.small, options.size) for trial in bench.trials]}
    made: dict[str, list[np.ndarray]] = {}
    for name in wanted:
        try:
            done = run(name, bench.trials, model, guided)
        except InputError as error:
            if name != "realesrgan":
                raise
            bench.missing[name] = str(error)
            continue
        made[name] = done.images
        bench.add(name, done.images, options.pictures, seconds=done.seconds, compiling=done.compiling)
    for name, files in given.items():
        bench.measure(name, files, options.pictures, folder=str(folders[name]))
        made[name] = [shown(files.get(trial.name), trial) for trial in bench.trials]
    if not bench.settings:
        raise InputError(f"realesrgan, the only method, is not available: {bench.missing['realesrgan']}")
    columns |= {name: images for name, images in made.items() if name not in HIDDEN} | {"original": bench.originals}
    compare_with(bench, made)
    print(table(bench.settings))
    bench.write(_figure(bench.settings), columns)
    lost = any(each["images"] < len(bench.trials) for each in bench.settings)
    named = options.runners != CompareOptions.runners and "realesrgan" in bench.missing
    return 1 if lost or named else 0


def run(name: str, given: Sequence[trials.Trial], model: "Model | None", guided: RestoreOptions) -> trials.Timed:
    """The images of a method that is built in.

    Raises:
        InputError: Real-ESRGAN's weights are not there.
    """
    size, seed = given[0].original.shape[0], guided.seed
    by_hand: dict[str, Callable[[trials.Trial], np.ndarray]] = {
        "bicubic": lambda trial: resized(trial.small, size, cv2.INTER_CUBIC),
        "nlm": lambda trial: resized(denoised(trial.small), size, cv2.INTER_LANCZOS4),
        "best-filter": lambda trial: best_filter(resized(trial.small, size, cv2.INTER_CUBIC), trial.original),
    }
    if name in by_hand:
        begun = time.perf_counter()
        images = [by_hand[name](trial) for trial in given]
        return trials.Timed(images, (time.perf_counter() - begun) / len(given), 0.0)
    if name == "realesrgan":
        from diffbir_jax.model import load_model

        images = [resized(trial.small, max(LEAST, trial.small.shape[0]), cv2.INTER_CUBIC) for trial in given]
        how = RestoreOptions(stage1_only=True, long_side=size)
        return trials.restore_timed(load_model("tiny", stage1="realesrgan"), images, how)
    if name == "autoencoder":
        return reconstructed(model, [trial.original for trial in given])
    how = {"stage1": RestoreOptions(stage1_only=True), "result": RestoreOptions(seed=seed), "guided": guided}[name]
    return trials.restore_timed(model, [trial.lq for trial in given], how)


def reconstructed(model: "Model", images: Sequence[np.ndarray]) -> trials.Timed:
    """Images through the model's autoencoder alone."""
    from diffbir_jax import pipeline, programs

    mesh, before, (size, _, _) = pipeline.local_mesh(1), sum(programs.compiled), images[0].shape
    more = -size % model.sampling["multiple"]
    frame = (size + more, size + more)
    encode, decode = (make(model, mesh, 1, frame) for make in (programs.encode_program, programs.decode_program))
    compiling, begun, found = sum(programs.compiled) - before, time.perf_counter(), []
    for image in images:
        padded = np.pad(image, ((0, more), (0, more), (0, 0)), "edge")[None]
        decoded, _ = decode(encode(padded), padded, np.full((1, 2), size, np.int32))
        found.append(np.asarray(decoded)[0, :size, :size].clip(0, 1))
    return trials.Timed(found, (time.perf_counter() - begun) / len(images), compiling)


def resized(image: np.ndarray, size: int, how: int) -> np.ndarray:
    """A square image at another size, by an interpolation of OpenCV."""
    if image.shape[:2] == (size, size):
        return image
    return np.clip(cv2.resize(image, (size, size), interpolation=how), 0, 1)


def denoised(image: np.ndarray) -> np.ndarray:
    """Non-local means (Buades et al. 2005) of colour images, OpenCV's."""
    bgr = np.rint(255 * image[..., ::-1]).astype(np.uint8)
    clean = cv2.fastNlMeansDenoisingColored(bgr, None, STRENGTH, STRENGTH, PATCH, WINDOW)
    return np.ascontiguousarray(clean[..., ::-1]).astype(np.float32) / np.float32(255)


def best_filter(image: np.ndarray, truth: np.ndarray, bins: int = 24) -> np.ndarray:
    """`image` through the linear, direction-blind filter closest to the truth: a bound that no blind filter can pass."""
    spectrum, target = (np.fft.rfft2(x, axes=(0, 1)) for x in (image, truth))
    radius = np.hypot(np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])[None])
    places = np.digitize(np.log(radius + 1e-3), np.linspace(np.log(1.5e-3), np.log(0.71), bins))
    for place in range(bins + 1):
        ring = places == place
        seen, wanted = spectrum[ring], target[ring]
        spectrum[ring] = seen * np.maximum(0, (seen.conj() * wanted).real.sum(0) / np.maximum((abs(seen) ** 2).sum(0), 1e-12))
    return np.clip(np.fft.irfft2(spectrum, image.shape[:2], axes=(0, 1)), 0, 1).astype(np.float32)


def find_results(bench: trials.Bench, name: str, folder: Path) -> dict[str, Path]:
    """Another method's files by the names of the trials; those that are lacking, damaged or of another size are told.

    Raises:
        InputError: none is left.
    """
    from diffbir_jax.imaging.reading import read_image
    from diffbir_jax.metrics.pairing import by_name, find, listed

    held, files = by_name(folder), {}
    found = {trial.name: path for trial in bench.trials if (path := find(held, trial.name))}
    if not found:
        raise InputError(f"{folder} has no image of a crop's name, for example {bench.trials[0].name}.png")
    if lacking := [trial.name for trial in bench.trials if trial.name not in found]:
        bench.note(f"{name}: {len(lacking)} of {len(bench.trials)} are not in {folder}: {listed(lacking)}")
    for crop, path in found.items():
        try:
            height, width = read_image(path).shape[:2]
            if {height, width} != {bench.options.size}:
                raise InputError(f"{path} is {width}x{height}, not {bench.options.size}x{bench.options.size}")
            files[crop] = path
        except InputError as error:
            bench.note(f"{name}: {error}")
    if not files:
        raise InputError(f"no image of {folder} can be compared")
    return files


def shown(path: Path | None, trial: trials.Trial) -> np.ndarray:
    """A file's image for the sheet; grey where there is none."""
    from diffbir_jax.imaging.reading import read_image

    return np.full_like(trial.original, 0.5) if path is None else read_image(path)


def compare_with(bench: trials.Bench, made: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Adds to every record its PSNR over that of bicubic, and its mean colour shift from stage 1 (of 255), if they are there."""
    from diffbir_jax.metrics.fidelity import colour_shift

    psnr: dict[str, dict[str, float]] = {}
    for row in bench.rows:
        psnr.setdefault(row["setting"], {})[row["image"]] = row["psnr"]
    for record in bench.settings:
        name = record["setting"]
        if "bicubic" in psnr:
            gains = [value - psnr["bicubic"][image] for image, value in psnr[name].items()]
            record["psnr_over_bicubic"] = float(np.mean(gains))
        if "stage1" in made and record["images"] == len(bench.trials):
            pairs = zip(made[name], made["stage1"], strict=True)
            record["colour_shift_from_stage1"] = float(np.mean([np.abs(colour_shift(a, b)).max() for a, b in pairs]))


def table(settings: Sequence[Mapping[str, Any]]) -> str:
    """What was measured, in Markdown: means, of the sharpness the median."""
    columns: dict[str, Callable[[Mapping[str, Any]], tuple[str, float | None]]] = {
        "PSNR (dB)": lambda each: (".2f", trials.typical(each, "psnr")),
        "over bicubic": lambda each: ("+.2f", each.get("psnr_over_bicubic")),
        "SSIM": lambda each: (".3f", trials.typical(each, "ssim")),
        "NIQE": lambda each: (".2f", trials.typical(each, "niqe")),
        "BRISQUE": lambda each: (".1f", trials.typical(each, "brisque")),
        "sharpness": lambda each: (".3f", trials.typical(each, "sharpness")),
        "colour shift from stage 1": lambda each: (".2f", each.get("colour_shift_from_stage1")),
        "seconds": lambda each: (".2f", each.get("seconds")),
    }
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    for each in settings:
        cells = [read(each) for read in columns.values()]
        few = f" ({each['images']} images)" * (each["images"] < max(other["images"] for other in settings))
        lines.append([each["setting"] + few, *("-" if value is None else f"{value:{form}}" for form, value in cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _figure(settings: Sequence[Mapping[str, Any]]) -> Any:
    """Fidelity against realness; the time that an image takes."""
    figure, (first, second) = trials.make_figure(1, 2)
    trials.scatter(first, settings, [each["setting"] for each in settings])
    timed = [each for each in settings if each.get("seconds")]
    second.barh([each["setting"] for each in timed], [each["seconds"] for each in timed], color="tab:blue")
    second.set_xscale("log")
    second.invert_yaxis()
    second.set_xlabel("seconds an image, without compilation")
    return figure


if __name__ == "__main__":
    sys.exit(main())
