"""Restore photographs: files, and folders with all that is below them, whose tree is mirrored in OUTPUT.

Every result carries the model, the options, the seed and the version. For those who port or compare: --noise FILE.safetensors
replays a trajectory with draws made elsewhere, x_T [1,c,h,w] and noise [draws,1,c,h,w], as many as the sampler takes (ddpm: one a
step, the last of which is multiplied by zero); --dump DIR writes DIR/NAME.safetensors, in the results' tree, with lq (what stage 1
saw), reg, cond_latent, context, z (after every step), decoded and fixed (with stage 1's colours). All are NCHW as PyTorch has them:
images in [0, 1], latents scaled, h and w those of the padded image's latent.
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from diffbir_jax import cli
from diffbir_jax.options import PRECISIONS, STAGE1, TASKS, FileOptions, RestoreOptions
from diffbir_jax.weights.registry import PRESETS

PROG = "diffbir_jax.restore"
MODELS = f"tiny (embedded), {', '.join(PRESETS)} (downloaded once)"


def scales(text: str) -> tuple[float, ...]:
    """Numbers joined by commas, each once."""
    return tuple(dict.fromkeys(float(part) for part in text.split(",")))


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog=PROG, description=__doc__)
    parser.add_argument("input", nargs="+", help="photographs or folders")
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--model", default="tiny", help=f"{MODELS}, or a model folder")
    parser.add_argument("--task", choices=TASKS, default="general", help="whose stage 1 is used")
    parser.add_argument("--precision", choices=PRECISIONS, default="f32", help="of the weights; bf16 halves their memory")
    parser.add_argument("--stage1", choices=STAGE1, default="own", help="realesrgan: a second opinion; none: leave the damage in")
    cli.add_options(parser, RestoreOptions, leave_out=("guidance_scale",))
    scale_help = "0: most realistic; larger: closer to stage 1; several, joined by commas: a result each, and a strip of them"
    parser.add_argument("--guidance-scale", type=scales, default=(None,), help=f"{scale_help}; None: as the model prefers")
    cli.add_options(parser, FileOptions)
    parser.add_argument("--json-log", action="store_true", help="print a JSON object a line instead of words")
    parser.add_argument("--noise", type=Path, help="safetensors, x_T [1,c,h,w] and noise [draws,1,c,h,w], instead of --seed's")
    parser.add_argument("--dump", type=Path, help="folder for NAME.safetensors: lq, reg, cond_latent, context, z, decoded, fixed")
    args = parser.parse_args(argv)
    return cli.run(lambda: _run(args), PROG)


def _run(args: argparse.Namespace) -> int:
    [options, *_] = [cli.options(args, RestoreOptions, guidance_scale=scale) for scale in args.guidance_scale]  # all are checked
    files = cli.options(args, FileOptions)
    from diffbir_jax.imaging.paths import outputs_for, prepare_folder

    output = prepare_folder(args.output)
    inputs = outputs_for(args.input, output, f".{files.format}")
    dump = args.dump and prepare_folder(args.dump)
    from diffbir_jax import folders, pipeline  # JAX loads only for a good command line
    from diffbir_jax.captions import captions_of
    from diffbir_jax.model import load_model
    from diffbir_jax.traces import read_draws

    draws = args.noise and read_draws(args.noise)
    caption, known = captions_of(files, [source for source, _ in inputs])
    model = load_model(args.model, args.task, args.precision, args.stage1)
    options = options.completed(model.defaults)
    if known:
        model.context(*{folders.captioned(options, text).prompt for text in known})
    asked = args.guidance_scale if len(args.guidance_scale) > 1 else (options.guidance_scale,)
    made = folders.variants(options, asked, files.n_samples)
    about = {"model": str(args.model), "task": args.task, "precision": args.precision}
    about |= {"stage1": args.stage1} if args.stage1 != "own" else {}
    about |= {"noise": str(args.noise)} if args.noise else {}
    follow = sys.stderr.isatty() and not args.json_log and pipeline.takes_long(model)
    log = Log(args.json_log, len(inputs), len(made), pipeline.evaluations(model, options), follow)
    folder = folders.Folder(model, about, made, files, caption, output, draws, dump, log.step)
    with log:
        for event in folder.run(inputs):
            log.add(event)
    return log.code


class Log:
    """Prints what became of every photograph, under one bar over the evaluations of all; counts, and says what was compiled.

    Args:
        results: of a photograph.
        evaluations: of the networks for a result.
        follow: the bar moves at every evaluation, through `step`; else with every photograph.
    """

    def __init__(self, as_json: bool, photographs: int, results: int, evaluations: int, follow: bool):
        self.as_json, self.results, self.counts, self.begun = as_json, results, Counter(), time.perf_counter()
        self.done, self.total, self.evaluations = 0, photographs * results, evaluations
        self.bar = cli.progress(f"0/{self.total}", self.total * evaluations)
        self.step = self.bar.update if follow else None

    def __enter__(self) -> "Log":
        return self

    def add(self, event: Any) -> None:
        self.counts[event.kind] += 1
        results = {"restored": 1, "strip": 0}.get(event.kind, self.results)
        self.done += results
        if self.step is None or event.kind != "restored":
            self.bar.update(results * self.evaluations)
        if self.as_json:
            self.bar.write(json.dumps({"event": event.kind, "input": str(event.source), **event.about}))
        elif event.kind == "failed":
            self.bar.write(f"{PROG}: {event.about['error']}", file=sys.stderr)
        else:
            self.bar.write(_words(event))
        self.bar.set_description_str(f"{self.done}/{self.total}")

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.bar.close()
        if kind is None:
            self._finish(time.perf_counter() - self.begun)

    def _finish(self, seconds: float) -> None:
        from diffbir_jax import programs

        restored, failed, skipped = (self.counts[kind] for kind in ("restored", "failed", "skipped"))
        compiled = {"programs": len(programs.compiled), "compiling": sum(programs.compiled)}
        if self.as_json:
            about = {"restored": restored, "failed": failed, "skipped": skipped, "seconds": seconds, **compiled}
            print(json.dumps({"event": "finished", **about}), flush=True)
            return
        more = f", {skipped} skipped" if skipped else ""
        said = f"restored {restored} of {restored + failed}{more} in {seconds:.1f} s"
        print(f"{said}; {compiled['programs']} programs compiled in {compiled['compiling']:.1f} s", flush=True)

    @property
    def code(self) -> int:
        """0 all done, 1 some failed, 2 all failed."""
        done = self.counts["restored"] + self.counts["skipped"]
        return 0 if not self.counts["failed"] else 1 if done else 2


def _words(event: Any) -> str:
    about = event.about
    if event.kind == "skipped":
        return f"{event.source}: {about['output']} is there already"
    if event.kind == "strip":
        return f"{event.source} -> {about['output']}: all guidance scales"
    sizes = ("x".join(map(str, about[name])) for name in ("size", "output_size"))
    notes = "".join(f", {note}" for note in about["notes"])
    return "{} {}{} -> {} {}: {:.1f} s".format(event.source, next(sizes), notes, about["output"], next(sizes), about["seconds"])


if __name__ == "__main__":
    sys.exit(main())
