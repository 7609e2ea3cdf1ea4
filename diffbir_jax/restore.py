"""Restore photographs: writes OUTPUT/NAME.png for every input.

For those who port or compare: --noise FILE.safetensors replays a trajectory with draws made elsewhere, x_T [1,c,h,w] and noise
[steps,1,c,h,w], the last of which is multiplied by zero; --dump DIR writes DIR/NAME.safetensors with lq (what stage 1 saw), reg,
cond_latent, context, z (after every step), decoded and fixed (with stage 1's colours). All are NCHW as PyTorch has them: images
in [0, 1], latents scaled, h and w those of the padded image's latent.
"""

import sys
import time
from pathlib import Path

from diffbir_jax import cli
from diffbir_jax.options import PRECISIONS, TASKS, RestoreOptions
from diffbir_jax.weights.registry import PRESETS

PROG = "diffbir_jax.restore"
MODELS = f"tiny (embedded), {', '.join(PRESETS)} (downloaded once)"


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog=PROG, description=__doc__)
    parser.add_argument("input", nargs="+", help="photographs or folders")
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--model", default="tiny", help=f"{MODELS}, or a model folder")
    parser.add_argument("--task", choices=TASKS, default="general", help="whose stage 1 is used")
    parser.add_argument("--precision", choices=PRECISIONS, default="f32", help="of the weights; bf16 halves their memory")
    cli.add_options(parser, RestoreOptions)
    parser.add_argument("--noise", type=Path, help="safetensors, x_T [1,c,h,w] and noise [steps,1,c,h,w], used instead of --seed")
    parser.add_argument("--dump", type=Path, help="folder for NAME.safetensors: lq, reg, cond_latent, context, z, decoded, fixed")
    args = parser.parse_args(argv)
    return cli.run(lambda: _run(args), PROG)


def _run(args) -> int:
    options = cli.options(args, RestoreOptions)
    from diffbir_jax.imaging.files import find_images, output_names, prepare_folder

    paths = find_images(args.input)
    names = output_names(paths)
    output = prepare_folder(args.output)
    dump = args.dump and prepare_folder(args.dump)
    from diffbir_jax.model import load_model  # JAX loads only for a good command line
    from diffbir_jax.traces import read_draws

    draws = args.noise and read_draws(args.noise)
    model = load_model(args.model, args.task, args.precision)
    begun = time.perf_counter()
    jobs = list(zip(paths, names, strict=True))
    code, done = cli.each(jobs, lambda job: _restore(model, job[0], output / job[1], options, draws, dump), PROG)
    print(f"restored {done} of {len(jobs)} in {time.perf_counter() - begun:.1f} s")
    return code


def _restore(model, path: Path, target: Path, options: RestoreOptions, draws, dump: Path | None) -> str:
    """Restores one file; a line that says what came of it.

    Raises:
        InputError: the file cannot be read, or the result not written.
    """
    from diffbir_jax import pipeline
    from diffbir_jax.imaging.files import read_image, write_png
    from diffbir_jax.traces import write_trace

    image = read_image(path)
    job = pipeline.Job(model, image, options, draws, keep=dump is not None)
    compiling = job.compile()
    begun = time.perf_counter()
    with cli.progress(path.name, pipeline.step_count(model, options)) as bar, pipeline.on_step(bar.update):
        restored, trace = job.run()
    took = time.perf_counter() - begun
    if dump:
        write_trace(dump / f"{target.stem}.safetensors", trace)
    write_png(target, restored)
    (h, w), (height, width) = image.shape[:2], restored.shape[:2]
    note = f", after {compiling:.1f} s of compiling for this size" if compiling > 0.1 else ""
    return f"{path} {w}x{h} -> {target} {width}x{height}: {took:.1f} s{note}"


if __name__ == "__main__":
    sys.exit(main())
