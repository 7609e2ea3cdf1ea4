"""Fidelity against realness: the guidance scale's curve, the samplers with few and with many steps, and what is faster.

Every crop is restored with each guidance scale, then, guided as the model prefers, by each sampler with each number of steps,
at each speed, with many steps, and with as many at each interval of reuse. Whether fidelity rises and realness falls all along
the curve is said, and written. A faster result has its distance to the one of many steps from the same seed: the root mean square
over a crop, of 255.
"""

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffbir_jax import cli
from diffbir_jax.errors import InputError
from diffbir_jax.experiments import trials
from diffbir_jax.options import SPEEDS, RestoreOptions

PROG = "diffbir_jax.experiments.tradeoff"
EXPECTED = {"psnr": 1, "ssim": 1, "niqe": 1, "sharpness": -1}  # with the scale: more fidelity, less realness


@dataclass(frozen=True)
class TradeoffOptions(trials.TrialOptions):
    """What `tradeoff` is told."""

    scales: str = field(default="0,500,2000,5000,20000,50000", metadata={"help": "guidance scales, two or more"})
    samplers: str = field(default="ddpm,ddim,dpm++_2m,dpm++_3m_sde,unipc", metadata={"help": "samplers of the table"})
    step_counts: str = field(default="5,10,20", metadata={"help": "numbers of steps of the table"})
    speeds: str = field(default=",".join(SPEEDS), metadata={"help": "speeds of the table, see diffbir_jax.restore"})
    reuses: str = field(default="2,3", metadata={"help": "reuse of the table, at many steps: N, or N:DEPTH"})
    many_steps: int = field(default=50, metadata={"help": "of the result that the faster ones are compared with"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.curve()) < 2:
            raise InputError(f"scales is {self.scales!r}; give two or more, for example 0,1000,20000")
        self.table()
        self.faster()

    def curve(self) -> list[RestoreOptions]:
        """A restoration for every scale, rising."""
        scales = sorted(numbers("scales", self.scales, float))
        return [RestoreOptions(guidance_scale=scale, seed=self.seed) for scale in scales]

    def table(self) -> list[RestoreOptions]:
        """A restoration for every sampler and number of steps."""
        steps = sorted(numbers("step-counts", self.step_counts, int))
        return [RestoreOptions(sampler=s, steps=n, seed=self.seed) for s in trials.split(self.samplers) for n in steps]

    def faster(self) -> dict[str, RestoreOptions]:
        """By name: the restoration of many steps, then one at every speed, and of many steps for every interval of reuse."""
        found = {f"many_{self.many_steps}": RestoreOptions(steps=self.many_steps, seed=self.seed)}
        found |= {f"speed_{name}": RestoreOptions(speed=name, seed=self.seed) for name in trials.split(self.speeds)}
        for text in trials.split(self.reuses):
            reuse, _, depth = text.partition(":")
            asked = {k: numbers("reuses", v, int)[0] for k, v in (("reuse", reuse), ("reuse_depth", depth)) if v}
            found[f"reuse_{text.replace(':', '_')}"] = RestoreOptions(**asked, steps=self.many_steps, seed=self.seed)
        return found


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

    model, images, many = load_model(options.model), [trial.lq for trial in bench.trials], []
    columns = {"input": images}

    def setting(name: str, of: RestoreOptions, **about: Any) -> dict[str, Any]:
        of = of.completed(model.defaults)
        done = trials.restore_timed(model, images, of)
        about |= {"evaluations": pipeline.evaluations(model, of), "seconds": done.seconds, "compiling": done.compiling}
        if "guidance_scale" in about:
            columns[f"scale {of.guidance_scale:g}"] = done.images
        if "distance" in about:
            many.extend([] if many else done.images)
            about |= {"distance": distance(done.images, many), "gflops": flops(model, images[0], of) / 1e9}
        return bench.add(name, done.images, **about)

    curve = [setting(f"scale_{of.guidance_scale:g}", of, guidance_scale=of.guidance_scale) for of in options.curve()]
    table = [setting(f"{of.sampler}_{of.steps}", of, sampler=of.sampler, steps=of.steps) for of in options.table()]
    for name, of in options.faster().items():
        setting(name, of, distance=None)
    said = monotone(curve)
    for metric, each in said.items():
        print(f"{metric} {each['words']}")
    columns["original"] = bench.originals
    bench.write(_figure(curve, table), columns, monotone=said)
    return 0


def distance(images: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """The mean over images of the root mean square difference, of 255."""
    return float(np.mean([255 * np.sqrt(np.mean((a - b) ** 2)) for a, b in zip(images, others, strict=True)]))


def flops(model: Any, image: np.ndarray, options: RestoreOptions) -> float:
    """FLOPs of all the evaluations of an image, by completed options; cfg as if it had no interval."""
    import jax

    from diffbir_jax import pipeline, programs
    from diffbir_jax.training import cost

    job = pipeline.Job(model, image, options)
    nets = {name: cost.whole(model.nets[name]) for name in ("unet", "control")}
    params = {n: jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())["params"] for n, net in nets.items()}
    latent = programs.latent_shape(model, job.frame, 2 if job.plan.text else 1)
    total = pipeline.evaluations(model, options)
    full = -(-total // options.reuse)
    cheap = cost.evaluation_flops(nets, params, latent, options.reuse_depth) if total > full else 0
    return full * cost.evaluation_flops(nets, params, latent) + (total - full) * cheap


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
        axes.set(xlabel="steps", ylabel=trials.title_of(name), title="samplers, guided as the model prefers")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    sys.exit(main())
