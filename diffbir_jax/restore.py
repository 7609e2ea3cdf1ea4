"""Restore photographs: writes OUTPUT/NAME.png for every input."""

import sys
import time
from pathlib import Path

from diffbir_jax import cli
from diffbir_jax.options import RestoreOptions

PROG = "diffbir_jax.restore"


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog=PROG, description=__doc__)
    parser.add_argument("input", nargs="+", help="photographs or folders")
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--model", default="tiny", help="an embedded model or a model folder")
    cli.add_options(parser, RestoreOptions)
    args = parser.parse_args(argv)
    return cli.run(lambda: _run(args), PROG)


def _run(args) -> int:
    options = cli.options(args, RestoreOptions)
    from diffbir_jax.imaging.files import find_images, output_names, prepare_folder

    paths = find_images(args.input)
    names = output_names(paths)
    output = prepare_folder(args.output)
    from diffbir_jax.pipeline import load_model  # JAX loads only for a good command line

    model = load_model(args.model)
    begun = time.perf_counter()
    jobs = list(zip(paths, names, strict=True))
    code, done = cli.each(jobs, lambda job: _restore(model, job[0], output / job[1], options), PROG)
    print(f"restored {done} of {len(jobs)} in {time.perf_counter() - begun:.1f} s")
    return code


def _restore(model, path: Path, target: Path, options: RestoreOptions) -> str:
    """Restores one file; a line that says what came of it.

    Raises:
        InputError: the file cannot be read, or the result not written.
    """
    from diffbir_jax import pipeline
    from diffbir_jax.imaging.files import read_image, write_png

    image = read_image(path)
    compiling = pipeline.compile_for(model, image, options)
    begun = time.perf_counter()
    with cli.progress(path.name, pipeline.step_count(options)) as bar, pipeline.on_step(bar.update):
        [restored] = pipeline.restore_images(model, [image], options)
    took = time.perf_counter() - begun
    write_png(target, restored)
    (h, w), (height, width) = image.shape[:2], restored.shape[:2]
    note = f", after {compiling:.1f} s of compiling for this size" if compiling > 0.1 else ""
    return f"{path} {w}x{h} -> {target} {width}x{height}: {took:.1f} s{note}"


if __name__ == "__main__":
    sys.exit(main())
