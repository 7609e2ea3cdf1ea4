"""The paper's ablations: without the restoration module, without fine-tuning, ControlNet against LAControlNet.

Two can be had from any model without training: its prior steered by the degraded image itself, and its control branch as it was
before training, a copy of the prior's encoder whose outputs are zero. The others need a model trained so (configs/ablation_*.py),
given by --variant NAME=FOLDER. The colour shift of R, G and B is measured before and after the colour fix, which hides it.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffbir_jax import cli
from diffbir_jax.errors import InputError
from diffbir_jax.experiments import trials
from diffbir_jax.options import RestoreOptions

if TYPE_CHECKING:
    from diffbir_jax.model import Model

PROG = "diffbir_jax.experiments.ablation"
FULL, UNRESTORED, UNTRAINED = "full", "without-restoration", "untrained-control"
AGAINST = ("stage1", "original")
BRANCHES = {"LAControlNet": "trained with config.branch=LAControlNet", "ControlNet": "of configs/ablation_controlnet.py"}
NOT_TUNED = (
    "needs --variant NAME=FOLDER, of configs/ablation_no_finetuning.py: the 1x1 convolutions learn, the copied encoder does not"
)


@dataclass(frozen=True)
class AblationOptions(trials.TrialOptions):
    """What `ablation` is told."""

    strength: float | None = field(default=None, metadata={"help": "as for restore; 1 shows most of what control does"})
    guidance_scale: float = field(default=0.0, metadata={"help": "as for restore, 0: none"})


def main(argv: list[str] | None = None) -> int:
    parser = trials.make_parser(PROG, __doc__, AblationOptions)
    parser.add_argument("--variant", action="append", default=[], metavar="NAME=FOLDER", help="another trained model (repeatable)")
    args = parser.parse_args(argv)
    return cli.run(lambda: _run(args), PROG)


def _run(args: argparse.Namespace) -> int:
    options = cli.options(args, AblationOptions)
    asked = RestoreOptions(strength=options.strength, guidance_scale=options.guidance_scale, seed=options.seed)
    folders = named_folders("variant", args.variant, (FULL, UNRESTORED, UNTRAINED))
    bench = trials.Bench("ablation", args.photographs, args.output, options)
    regs, branches, columns = None, {}, {"input": [trial.lq for trial in bench.trials]}
    for name, model in models(options.model, folders):
        branches.setdefault(type(model.nets["control"]).__name__, name)
        restored, decoded, conditions = restore(model, columns["input"], asked.completed(model.defaults))
        if regs is None:
            regs = columns["stage 1"] = conditions
        shifts = {
            when: {of: shift(images, references) for of, references in (("stage1", regs), ("original", bench.originals))}
            for when, images in (("before_colour_fix", decoded), ("after_colour_fix", restored))
        }
        columns[name] = restored
        bench.add(name, restored, control=type(model.nets["control"]).__name__, colour_shift=shifts)
    columns["original"] = bench.originals
    unavailable = {f"{kind} against {' and '.join(branches)}": f"needs --variant NAME=FOLDER of a model {how}"
                   for kind, how in BRANCHES.items() if kind not in branches}  # fmt: skip
    if not folders:
        unavailable["without fine-tuning, as in the paper"] = NOT_TUNED
    bench.missing |= unavailable
    print(table(bench.settings))
    bench.write(_figure(bench.settings), columns)
    return 0


def named_folders(flag: str, given: Sequence[str], taken: Sequence[str]) -> dict[str, Path]:
    """Folders by name, of NAME=FOLDER.

    Raises:
        InputError: there is no name or folder, or the name is taken.
    """
    found: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals or not name or Path(name).name != name or name.startswith("."):
            raise InputError(f"{flag} is {text!r}; give NAME=FOLDER, the name without /")
        if name in found or name in taken:
            raise InputError(f"{flag} {name!r} is taken; give another name than {', '.join([*taken, *found])}")
        if not Path(folder).is_dir():
            raise InputError(f"{flag} {name}: {folder} is not a folder")
        found[name] = Path(folder)
    return found


def models(name: str, folders: Mapping[str, Path]) -> Iterator[tuple[str, "Model"]]:
    """The model, what can be had from it without training, and the variants, one at a time."""
    import jax

    from diffbir_jax.model import load_model
    from diffbir_jax.models.control import control_from_unet

    model = load_model(name)
    yield FULL, model
    yield UNRESTORED, load_model(name, stage1="none")
    untrained = control_from_unet(model.params["unet"], model.nets["control"], jax.random.key(0))
    untrained = jax.tree.map(lambda x, like: x.astype(like.dtype), untrained, model.params["control"])
    yield UNTRAINED, replace(model, params=model.params | {"control": untrained}, _replicas={})
    for variant, folder in folders.items():
        yield variant, load_model(folder)


def restore(model: "Model", images: Sequence[np.ndarray], options: RestoreOptions) -> tuple[list[np.ndarray], ...]:
    """The results, what the autoencoder made before stage 1's colours were put in, and the condition, an image each."""
    from diffbir_jax.pipeline import Job, local_mesh, restore_jobs

    jobs = [Job(model, image, options, keep=True) for image in images]
    done = dict(restore_jobs(enumerate(jobs), local_mesh(len(jobs))))
    found = [done[i] for i in range(len(jobs))]
    decoded = [x.trace["decoded"][0][: job.reg_size[0], : job.reg_size[1]] for x, job in zip(found, jobs, strict=True)]
    return [x.image for x in found], decoded, [job.finished(x.trace["reg"][0]) for x, job in zip(found, jobs, strict=True)]


def shift(images: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> dict[str, list[float]]:
    """Of R, G and B, of 255: the mean over images of the shift, signed, and of its size."""
    from diffbir_jax.metrics.fidelity import colour_shift

    each = np.array([colour_shift(image, reference) for image, reference in zip(images, references, strict=True)])
    return {"signed": each.mean(0).tolist(), "size": np.abs(each).mean(0).tolist()}


def table(settings: Sequence[Mapping[str, Any]]) -> str:
    """The sizes of the colour shifts as text."""
    lines = [f"{'colour shift of R, G, B (of 255)':34}{'from stage 1':>22}{'from the original':>22}{'after the colour fix':>22}"]
    for each in settings:
        before, after = each["colour_shift"]["before_colour_fix"], each["colour_shift"]["after_colour_fix"]
        cells = [before["stage1"], before["original"], after["stage1"]]
        words = [" ".join(f"{x:.2f}" for x in cell["size"]) for cell in cells]
        lines.append(f"{each['setting'] + ' (' + each['control'] + ')':34}" + "".join(f"{word:>22}" for word in words))
    return "\n".join(lines)


def _figure(settings: Sequence[Mapping[str, Any]]) -> Any:
    """Fidelity against realness; the colour shifts before the colour fix."""
    figure, (first, *rest) = trials.make_figure(1, 3)
    trials.scatter(first, settings, [each["setting"] for each in settings])
    places = np.arange(len(settings))
    for axes, against in zip(rest, AGAINST, strict=True):
        for i, colour in enumerate(("red", "green", "blue")):
            sizes = [each["colour_shift"]["before_colour_fix"][against]["size"][i] for each in settings]
            axes.bar(places + 0.25 * (i - 1), sizes, 0.25, color=f"tab:{colour}", label=colour)
        axes.set_xticks(places, [each["setting"] for each in settings], rotation=20, ha="right", fontsize=8)
        axes.set(ylabel=f"colour shift from {against.replace('stage1', 'stage 1')} (of 255)", title="before the colour fix")
        axes.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    sys.exit(main())
