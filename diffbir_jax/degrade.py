"""Degrade photos by a recipe: writes DIR/NAME.png for every input. The same seed and file name give the same degradation."""

import sys
import zlib
from pathlib import Path

import numpy as np

from diffbir_jax import cli
from diffbir_jax.degradation.operations import apply
from diffbir_jax.degradation.recipes import RECIPES, Recipe, draw, find_recipe
from diffbir_jax.errors import InputError
from diffbir_jax.imaging.files import find_images, output_names, prepare_folder, read_image, write_png

PROG = "diffbir_jax.degrade"


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog=PROG, description=__doc__)
    parser.add_argument("input", nargs="+", help="photos or folders")
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--recipe", default="codeformer", help=f"one of {', '.join(RECIPES)}")
    parser.add_argument("--seed", type=int, default=0, help="of the draws, at least 0")
    args = parser.parse_args(argv)
    recipe = find_recipe(args.recipe)
    if args.seed < 0:
        raise InputError(f"seed is {args.seed}; give at least 0")
    paths = find_images(args.input)
    names = output_names(paths)
    output = prepare_folder(args.output)
    jobs = zip(paths, names, strict=True)
    code, _ = cli.each(jobs, lambda job: degrade_file(job[0], output / job[1], recipe, args.seed), PROG)
    return code


def degrade_file(path: Path, output: Path, recipe: Recipe, seed: int) -> str:
    """Degrades one file; its draws depend on the seed and its name, not on the other files.

    Returns:
        A line that says what was drawn.

    Raises:
        InputError: the file cannot be read or written.
    """
    image = read_image(path)
    rng = np.random.default_rng([seed, zlib.crc32(path.name.encode())])
    operations = draw(recipe, rng, image.shape[:2])
    write_png(output, apply(operations, image))
    return f"{output}: {', '.join(map(str, operations))}"


if __name__ == "__main__":
    sys.exit(cli.run(main, PROG))
