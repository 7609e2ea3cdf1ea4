"""Fidelity against realness: the guidance scale's curve, and the samplers with few and with many steps.

Every crop is restored with each guidance scale, then without guidance by each sampler with each number of steps. Whether fidelity
rises and realness falls all along the curve is said, and written.
"""

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffbir_jax import cli
from diffbir_jax.errors import InputError
from diffbir_jax.experiments import trials
from diffbir_jax.options import RestoreOptions

PROG = "diffbir_jax.experiments.tradeoff"
EXPECTED = {"psnr": 1, "ssim": 1, "niqe": 1, "sharpness": -1}  # with the scale: more fidelity, less realness


@dataclass(frozen=True)
class TradeoffOptions(trials.TrialOptions):
    """What `tradeoff` is told."""

    scales: str = field(default="0,500,2000,5000,20000,50000", metadata={"help": "guidance scales, two or more"})
    samplers: str = field(default="ddpm,ddim,dpm++_2m,dpm++_3m_sde,unipc", metadata={"help": "samplers of the table"})
    step_counts: str = field(default="5,10,20", metadata={"help": "numbers of steps of the table"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.curve()) < 2:
            raise InputError(f"scales is {self.scales!r}; give two or more, for example 0,1000,20000")
        self.table()

    def curve(self) -> list[RestoreOptions]:
        """A restoration for every scale, rising."""
        scales = sorted(numbers("scales", self.scales, float))
        return [RestoreOptions(guidance_scale=scale, seed=self.seed) for scale in scales]

    def table(self) -> list[RestoreOptions]:
        """A restoration for every sampler and number of steps."""
        steps = sorted(numbers("step-counts", self.step_counts, int))
        return [RestoreOptions(sampler=s, steps=n, seed=self.seed) for s in trials.split(self.samplers) for n in steps]


def numbers(name: str, text: str, kind: type) -> list[Any]:
    """Numbers joined by commas.

    Raises:
        InputError: there is another thing among them.
    """
    try:
        return list(dict.fromkeys(kind(part) for part in trials.split(text)))
    except ValueError:
        raise InputError(f"{name} is {text!r}; give numbers joined by commas") from None


def main(argv: list[str] | None = None) -> int:
    args = trials.make_parser(PROG, __doc__, TradeoffOptions).parse_args(argv)
    return cli.run(lambda: _run(args), PROG)


def _run(args: argparse.Namespace) -> int:
    options = cli.options(args, TradeoffOptions)
    bench = trials.Bench("tradeoff", args.photographs, args.output, options)
    from diffbir_jax import pipeline
    from diffbir_jax.model import load_model

    model, images = load_model(options.model), [trial.lq for trial in bench.trials]
    columns = {"input": images}

    def setting(name: str, of: RestoreOptions, **about: Any) -> dict[str, Any]:
        of = of.completed(model.defaults)
        done = trials.restore_timed(model, images, of)
        about |= {"evaluations": pipeline.evaluations(model, of), "seconds": done.seconds, "compiling": done.compiling}
        if "guidance_scale" in about:
            columns[f"scale {of.guidance_scale:g}"] = done.images
        return bench.add(name, done.images, **about)

    curve = [setting(f"scale_{of.guidance_scale:g}", of, guidance_scale=of.guidance_scale) for of in options.curve()]
    table = [setting(f"{of.sampler}_{of.steps}", of, sampler=of.sampler, steps=of.steps) for of in options.table()]
    said = monotone(curve)
    for metric, each in said.items():
        print(f"{metric} {each['words']}")
    columns["original"] = bench.originals
    bench.write(_figure(curve, table), columns, monotone=said)
    return 0


def monotone(curve: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Whether what is expected of the means along rising scales holds, and where not."""
    found = {}
    for metric, sign in EXPECTED.items():
        values = [trials.typical(each, metric) for each in curve]
        if None in values:
            continue
        pairs = itertools.pairwise(zip(curve, values, strict=True))
        breaks = [(a["guidance_scale"], b["guidance_scale"]) for (a, x), (b, y) in pairs if sign * (y - x) < 0]
        way = "rises" if sign > 0 else "falls"
        where = ", ".join(f"{a:g} to {b:g}" for a, b in breaks)
        words = f"{way} with the guidance scale" if not breaks else f"does not only {way[:-1]} with the guidance scale: {where}"
        found[metric] = {"monotone": not breaks, "expected": way, "words": words, "values": values}
    return found


def _figure(curve: Sequence[Mapping[str, Any]], table: Sequence[Mapping[str, Any]]) -> Any:
    """The curve; PSNR and realness over the scale; over the steps of every sampler."""
    metric = trials.naturalness([*curve, *table])
    figure, (first, second, third, fourth) = trials.make_figure(2, 2)
    trials.scatter(first, curve, [f"{each['guidance_scale']:g}" for each in curve], line=True)
    first.set_title("guidance scale: fidelity against realness")
    scales = [each["guidance_scale"] for each in curve]
    other = second.twinx()
    second.plot(scales, [trials.typical(each, "psnr") for each in curve], "o-", color="tab:blue")
    other.plot(scales, [trials.typical(each, metric) for each in curve], "s--", color="tab:orange")
    second.set_xscale("symlog", linthresh=min((s for s in scales if s), default=1))
    second.set_xlabel("guidance scale")
    second.set_ylabel(trials.title_of("psnr"), color="tab:blue")
    other.set_ylabel(trials.title_of(metric), color="tab:orange")
    for axes, name in ((third, "psnr"), (fourth, metric)):
        for sampler, rows in itertools.groupby(table, lambda each: each["sampler"]):
            rows = list(rows)
            axes.plot([row["steps"] for row in rows], [trials.typical(row, name) for row in rows], "o-", label=sampler)
        axes.set(xlabel="steps", ylabel=trials.title_of(name), title="samplers, without guidance")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    sys.exit(main())
