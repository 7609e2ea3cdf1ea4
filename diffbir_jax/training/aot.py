"""Compile a recipe's full-size program for accelerators that are not there, and tell what it needs of each device.

python -m diffbir_jax.training.aot --topology v5e:4x4 --config configs/stage2_v2.py [--config.key=value …]
    [--program train|restore] [--size 512] [--steps 50] [--largest]

Topologies: v4:2x2x1, v5e:4x4, v5p:2x2x1, v6e:4x4 and others of libtpu's; a100:8 and h100:8, or a100:2x8 for two hosts of 8. Needs
the extra `aot`, no accelerator. Memory and collectives are the compiler's; FLOPs are XLA's count of the program as traced; the
roofline is the longest of computing, memory traffic and communication at the chip's published peaks: a bound from below. TPU
programs are compiled with XLA's least effort (`jax_exec_time_optimization_effort` -1), so that they compile in minutes.
"""

import argparse
import math
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffbir_jax import cli
from diffbir_jax.errors import InputError
from diffbir_jax.options import PRECISIONS
from diffbir_jax.training.chips import CHIPS, GIB, Chip
from diffbir_jax.training.config import read_config

TARGETS = Path(__file__).parent / "targets"
GPU_OPTIONS = {"xla_gpu_enable_latency_hiding_scheduler": True}
TOO_LARGE = re.compile(r"RESOURCE_EXHAUSTED|[Rr]an out of memory|Exceeded hbm capacity")


@dataclass(frozen=True)
class Compiled:
    """What one device needs for a program.

    Attributes:
        chip: the device; `cores`: devices that a chip shows as.
        memory: bytes by kind; "peak" decides.
        flops, moved: FLOPs and bytes of memory traffic, of one device in one run.
        collectives: kind -> count and bytes.
        seconds: that compiling took.
        refused: what the compiler said where the program does not fit; then there is no more than that.
    """

    chip: Chip
    cores: int
    memory: dict[str, int]
    flops: float
    moved: int
    collectives: dict[str, tuple[int, int]]
    seconds: float
    refused: str = ""

    @property
    def capacity(self) -> float:
        return self.chip.memory / self.cores

    @property
    def fits(self) -> bool:
        return not self.refused and self.memory["peak"] <= self.capacity

    @property
    def bounds(self) -> dict[str, float]:
        """Seconds that a run takes at least: computing, memory, communication (a ring sends and receives a result once each)."""
        sent = sum(size * (2 if kind == "all-reduce" else 1) for kind, (_, size) in self.collectives.items())
        chip, cores = self.chip, self.cores
        return {
            "computing": self.flops / (chip.flops / cores),
            "memory": self.moved / (chip.bandwidth / cores),
            "communication": 2 * sent / (chip.links / cores),
        }

    def __str__(self) -> str:
        if self.refused:
            return f"does not fit in {self.capacity / GIB:.0f} GiB: {self.refused}\ncompiled for {self.seconds:.0f} s"
        kinds = ", ".join(f"{size / GIB:.2f} GiB {kind}" for kind, size in self.memory.items())
        collectives = ", ".join(f"{n} {kind} of {size / 2**20:.1f} MiB" for kind, (n, size) in self.collectives.items())
        slowest = max(self.bounds, key=self.bounds.get)
        bounds = ", ".join(f"{kind} {seconds:.3g} s" for kind, seconds in self.bounds.items())
        return (
            f"memory of a device: {kinds}; {'fits' if self.fits else 'does not fit'} in {self.capacity / GIB:.0f} GiB\n"
            f"FLOPs of a device: {self.flops:.4g}; bytes moved: {self.moved:.4g}\n"
            f"collectives: {collectives or 'none'}\n"
            f"roofline: at least {self.bounds[slowest]:.3g} s, by {slowest} ({bounds})\n"
            f"compiled in {self.seconds:.0f} s"
        )


def devices_of(topology: str) -> tuple[list[Any], Chip, int]:
    """The devices of a topology that is not there, their chip, and devices a chip.

    Raises:
        InputError: no such topology, or the extra is missing.
    """
    from jax.experimental import topologies

    name, _, shape = topology.partition(":")
    if name not in CHIPS or not re.fullmatch(r"\d+(x\d+)*", shape):
        raise InputError(f"topology is {topology!r}; give {', '.join(CHIPS)} with a shape, for example v5e:4x4 or a100:8")
    target = TARGETS / f"{name}.txtpb"
    try:
        if target.exists():
            hosts, _, each = f"1x{shape}".rpartition("1x")[2].rpartition("x")
            options = {"target_config": target.read_text(), "topology": f"1x{hosts or 1}x{each}"}
            topology = topologies.get_topology_desc(platform="cuda", topology_name="", **options)
        else:
            options = {"chips_per_host_bounds": (1, 1, 1)} if shape in ("1", "1x1") else {}
            topology = topologies.get_topology_desc(platform="tpu", topology_name=f"{name}:{shape}", **options)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{topology} cannot be had: {reason}; install the extra 'aot', or give another shape") from None
    chips = math.prod(int(n) for n in shape.split("x"))
    return list(topology.devices), CHIPS[name], len(topology.devices) // chips


def lowered_step(config: Any, devices: list[Any]) -> tuple[Any, float]:
    """The lowered step of a recipe on devices, and the FLOPs of one device."""
    import jax
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    from diffbir_jax.training import networks
    from diffbir_jax.training.cost import example_batch, frozen_shapes, image_flops
    from diffbir_jax.training.state import init_state, make_optimizer, state_specs

    mesh = Mesh(devices, ("data",))
    setup = networks.abstract_setup(config)
    frozen, optimizer = frozen_shapes(config, setup), make_optimizer(config.optimizer, config.steps)
    state = jax.eval_shape(lambda params: init_state(params, optimizer, config.optimizer.ema > 0), setup.params)
    specs = state_specs(state, config.optimizer.sharded)

    def on(tree: Any, spec: Any) -> Any:
        spec = jax.tree.map(lambda _: spec, tree) if isinstance(spec, P) else spec
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, s)), tree, spec)

    batch, key = example_batch(config, setup, config.data.batch), jax.eval_shape(lambda: jax.random.key(0))
    step = networks.training_step(config, networks.make_objective(config, setup), optimizer, mesh)
    lowered = step.lower(on(state, specs), on(frozen, P()), on(batch, P("data")), on(key, P()))
    return lowered, image_flops(config, setup) * config.data.batch / len(devices)


def lowered_sampler(config: Any, devices: list[Any], size: int, steps: int) -> tuple[Any, float]:
    """The lowered sampler of a recipe's prior and control branch, one square image a device, and the FLOPs of one device.

    Raises:
        InputError: the recipe is not one of stage 2.
    """
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh
    from jax.sharding import PartitionSpec as P

    from diffbir_jax import programs
    from diffbir_jax.model import Model
    from diffbir_jax.options import RestoreOptions
    from diffbir_jax.training import cost, networks, objectives

    if config.task != "stage2":
        raise InputError(f"the recipe trains {config.task}, which does not restore; give one of stage 2, for example stage2_v2.py")
    setup = networks.abstract_setup(config)
    nets = {name: networks.as_computed(networks.as_stored(net), config) for name, net in setup.nets.items()}
    stored = jnp.dtype(PRECISIONS[config.frozen_precision])
    params = objectives.merge(setup.frozen, setup.params)
    params = {n: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, stored), params[n]) for n in nets}
    model = Model(nets, params, setup.sampling)
    options = RestoreOptions(steps=steps, guidance_scale=1.0).completed({})
    plan = programs.plan_of(model, options, tile=False, replay=False, keep=False)
    names, run, specs, examples = programs.sampling(model, len(devices), (size, size), plan)
    mesh = Mesh(devices, (programs.SPLIT[0],))
    lowered = programs.lowered(mesh, run, (P(), *specs), ({n: params[n] for n in names}, *examples))
    return lowered, steps * cost.evaluation_flops(model.nets, params, programs.latent_shape(model, (size, size)))


def compiled(lower: Callable[[], tuple[Any, float]], chip: Chip, cores: int, options: dict[str, Any] | None = None) -> Compiled:
    """Compiles what `lower` returns, with the compiler's `options`, and reads the program."""
    from diffbir_jax.training.hlo import traffic

    begun, (lowered, flops) = time.perf_counter(), lower()
    try:
        program = lowered.compile(compiler_options=options)
    except Exception as error:
        if not TOO_LARGE.search(str(error)):
            raise
        found = re.search(r"[Uu]sed [\d.]+\w+ of [\d.]+\w+ hbm|[Ee]xceeded hbm capacity by [\d.]+\w+", str(error))
        reason = found[0] if found else " ".join(str(error).split())[:200]
        return Compiled(chip, cores, {}, flops, 0, {}, time.perf_counter() - begun, reason)
    memory = program.memory_analysis()
    kinds = {
        "arguments": memory.argument_size_in_bytes,
        "of them donated": memory.alias_size_in_bytes,
        "results": memory.output_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
        "peak": memory.peak_memory_in_bytes,
    }
    moved, collectives = traffic(program.as_text())
    return Compiled(chip, cores, kinds, flops, moved, collectives, time.perf_counter() - begun)


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog="diffbir_jax.training.aot", description=__doc__.strip())
    parser.add_argument("--topology", required=True, help="CHIP:SHAPE, for example v5e:4x4 or a100:8")
    parser.add_argument("--config", required=True, help="a recipe, configs/NAME.py")
    parser.add_argument("--program", choices=("train", "restore"), default="train", help="the training step, or the sampler")
    parser.add_argument("--size", type=int, default=512, help="pixels of the square image that is restored")
    parser.add_argument("--steps", type=int, default=50, help="of the sampler")
    parser.add_argument("--largest", action="store_true", help="look for the largest batch of a device that fits")
    args, overrides = parser.parse_known_args(argv)
    return cli.run(lambda: _work(args, overrides), parser.prog)


def _work(args: argparse.Namespace, overrides: list[str]) -> int:
    config = read_config(args.config, overrides)
    os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"
    import jax
    import jax.numpy as jnp

    from diffbir_jax.models.attention import best_implementation
    from diffbir_jax.training.checks import check, check_devices

    devices, chip, cores = devices_of(args.topology)
    config.data.source = config.data.source or ("" if config.data.folder else "synthetic")  # no photographs are needed for it
    if config.attention_implementation == "auto":
        config.attention_implementation = best_implementation(devices[0], jnp.dtype(PRECISIONS[config.precision]))
    if config.conv_implementation == "auto":
        config.conv_implementation = "xla"  # no target is a CPU
    check(config)
    on_tpu = devices[0].platform == "tpu"
    options = None if on_tpu else GPU_OPTIONS
    if on_tpu:
        jax.config.update("jax_exec_time_optimization_effort", -1.0)
    print(f"{args.topology}: {len(devices)} devices", flush=True)
    if args.program == "restore":
        config.remat = False
        print(compiled(lambda: lowered_sampler(config, devices, args.size, args.steps), chip, cores, options))
        return 0
    check_devices(config, len(devices))

    def step(images: int) -> Compiled:
        config.data.batch = images * len(devices) * config.optimizer.accumulate
        found = compiled(lambda: lowered_step(config, devices), chip, cores, options)
        print(f"{config.data.batch} images a step, {images} a device at once\n{found}", flush=True)
        return found

    if args.largest:
        largest(step)
    else:
        step(config.data.batch // len(devices) // config.optimizer.accumulate)
    return 0


def largest(need: Callable[[int], Compiled]) -> int:
    """The most images of a device at once that fit; 0: not even one.

    Tried are 8 and four times as many until they do not fit, then what a straight line between the last two needs says, or the mean
    where the compiler did not say how much it would have needed; a tenth fewer until they fit.
    """
    fits, over = None, need(8)
    images, too_many = 0, 8
    while over.fits:
        fits, images, too_many = over, too_many, 4 * too_many
        over = need(too_many)
    guess = (images + too_many) // 2
    if fits and "peak" in over.memory:
        each = (over.memory["peak"] - fits.memory["peak"]) / (too_many - images)
        guess = images + int((fits.capacity - fits.memory["peak"]) / each)
    while guess > images and not need(guess).fits:
        guess = min(guess - 1, guess * 9 // 10)
    return max(guess, images)


if __name__ == "__main__":
    sys.exit(main())
