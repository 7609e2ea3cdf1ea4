"""Degrade photos by a recipe: writes DIR/NAME.png for every input, folders with all that is below them, whose tree is mirrored.

The same seed and file name give the same degradation.
"""

import argparse
import ast
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffbir_jax import cli
from diffbir_jax.atomic import write_whole
from diffbir_jax.degradation import sheet, storage
from diffbir_jax.degradation.operations import Operation, apply
from diffbir_jax.degradation.pixels import Photo
from diffbir_jax.degradation.recipes import RECIPES, Recipe, draw, find_recipe
from diffbir_jax.errors import InputError
from diffbir_jax.imaging.paths import outputs_for, prepare_folder
from diffbir_jax.imaging.reading import read_image
from diffbir_jax.imaging.writing import write_picture

PROG = "diffbir_jax.degrade"
RECIPE, MOST_DRAWS, GRID = "codeformer", 99, "grid"


@dataclass(frozen=True)
class Job:
    """What to do with every photo: draw by a recipe (called `name`), `grid` times for a sheet, or replay what `params` stores."""

    output: Path
    recipe: Recipe
    name: str
    seed: int
    params: Path | None
    save_params: bool
    grid: int


def main(argv: list[str] | None = None) -> int:
    job, inputs = read_command(argv)
    pairs = [(path, target.relative_to(job.output)) for path, target in outputs_for(inputs, job.output)]
    if job.params and not job.params.is_dir() and len(pairs) > 1:
        raise InputError(f"{job.params} is one degradation for {len(pairs)} photos; give a folder with a NAME.json for each")
    if job.grid and (among := [path for path, place in pairs if place.parts[0] == GRID]):
        raise InputError(f"{among[0]} would be written among the contact sheets; rename its folder, or leave out --grid")
    prepare_folder(job.output)
    code, _ = cli.each(pairs, lambda each: degrade_file(*each, job), PROG)
    return code


def read_command(argv: list[str] | None) -> tuple[Job, list[str]]:
    """The job that a command line asks for, and its inputs.

    Raises:
        InputError: a flag out of its bounds, flags that exclude each other, or a recipe that refuses what is set.
    """
    parser = cli.Parser(prog=PROG, description=__doc__, argument_default=argparse.SUPPRESS)  # only flags given are in `args`
    parser.add_argument("input", nargs="+", help="photos or folders")
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--recipe", help=f"one of {', '.join(RECIPES)}, or several joined by + (default: {RECIPE})")
    parser.add_argument("--set", action="append", metavar="FIELD=VALUE", help="a range of the recipe, as noise=0,5 (repeatable)")
    parser.add_argument("--seed", type=int, help="of the draws, at least 0 (default: 0)")
    parser.add_argument(
        "--grid",
        type=int,
        nargs="?",
        const=8,
        metavar="N",
        help="write DIR/grid/NAME.png too: the photo and N draws (N if left out: 8)",
    )
    parser.add_argument("--save-params", action="store_true", help="write DIR/NAME.json too, which --params replays")
    parser.add_argument("--params", type=Path, help="a NAME.json, or a folder of them, to replay instead of drawing")
    args = vars(parser.parse_args(argv))
    _check(args)
    name, output = args.get("recipe", RECIPE), Path(args["output"])
    recipe = find_recipe(name, dict(map(read_setting, args.get("set", []))))
    job = Job(output, recipe, name, args.get("seed", 0), args.get("params"), args.get("save_params", False), args.get("grid", 0))
    return job, args["input"]


def _check(args: dict[str, Any]) -> None:
    if "params" in args:
        for flag in args.keys() & {"recipe", "set", "seed", "grid"}:
            raise InputError(f"--params says all that is drawn; leave out --{flag}")
        if not args["params"].exists():
            raise InputError(f"{args['params']} does not exist; give what --save-params wrote")
    if args.get("seed", 0) < 0:
        raise InputError(f"seed is {args['seed']}; give at least 0")
    if not 1 <= args.get("grid", 1) <= MOST_DRAWS:
        raise InputError(f"grid is {args['grid']}; give 1 to {MOST_DRAWS} draws")


def read_setting(text: str) -> tuple[str, Any]:
    """FIELD=VALUE; the value is a number, or several numbers or names with commas between."""
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise InputError(f"--set {text!r} has no value; give FIELD=VALUE, for example noise=0,5")
    try:
        return name, ast.literal_eval(value.strip())
    except (ValueError, TypeError, SyntaxError):
        return name, tuple(part.strip() for part in value.split(","))


def degrade_file(path: Path, place: Path, job: Job) -> str:
    """Degrades one file; its draws depend on the seed and its name, not on the other files.

    Args:
        place: of the result under the output folder.

    Returns:
        A line that says what was done.

    Raises:
        InputError: a file cannot be read or written.
    """
    image, output = read_image(path), job.output / place
    draws = [read_params(job.params, place, image)] if job.params else draw_all(path, image, job)
    prepare_folder(output.parent)
    write_picture(output, apply(draws[0], image))
    if job.save_params:
        write_params(output.with_suffix(".json"), draws[0], path, image, job)
    if job.grid:
        shown = sheet.contact_sheet(image, ((operations, apply(operations, image)) for operations in draws))
        write_picture(prepare_folder(job.output / GRID / place.parent) / place.name, shown)
    return f"{output}: {', '.join(map(sheet.describe, draws[0]))}"


def draw_all(path: Path, image: Photo, job: Job) -> list[tuple[Operation, ...]]:
    """The degradations of one photo; the first does not depend on how many there are."""
    rng = np.random.default_rng([job.seed, zlib.crc32(path.name.encode())])
    return [draw(job.recipe, rng, image.shape[:2]) for _ in range(max(1, job.grid))]


def write_params(target: Path, operations: tuple[Operation, ...], path: Path, image: Photo, job: Job) -> None:
    """Stores a degradation and where it came from."""
    about = {} if job.params else {"recipe": job.name, "seed": job.seed}
    text = storage.to_json(operations, photo=path.name, height=image.shape[0], width=image.shape[1], **about)
    write_whole(target, lambda file: file.write_text(text, encoding="utf-8"))


def read_params(params: Path, place: Path, image: Photo) -> tuple[Operation, ...]:
    """The stored degradation of one photo, from a file or a folder.

    Raises:
        InputError: it cannot be read, is none, or was drawn for another size.
    """
    source = params / place.with_suffix(".json") if params.is_dir() else params
    try:
        operations, about = storage.from_json(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from None
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    height, width = image.shape[:2]
    if (about.get("height", height), about.get("width", width)) != (height, width):
        raise InputError(f"{source} was drawn for {about.get('width')}x{about.get('height')}; {place.stem} is {width}x{height}")
    return operations


if __name__ == "__main__":
    sys.exit(cli.run(main, PROG))
