"""Train a network: python -m diffbir_jax.train --config configs/tiny_stage1.py --workdir RUN [--config.key=value …].

Started again with the same arguments it goes on from the newest checkpoint in the work folder; SIGTERM saves and ends it. With
--dry-run it prints the recipe and what it costs, and ends.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from diffbir_jax import cli
from diffbir_jax.errors import InputError
from diffbir_jax.home import compiled_folder
from diffbir_jax.training.config import read_config


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog="diffbir_jax.train", description=__doc__.strip())
    parser.add_argument("--config", required=True, help="a recipe, configs/NAME.py, or configs/NAME.py:smoke for the small one")
    parser.add_argument("--workdir", type=Path, help="folder for checkpoints, metrics and samples")
    parser.add_argument("--dry-run", action="store_true", help="print the recipe, parameters, memory and FLOPs, and end")
    parser.add_argument("--coordinator", default="", help="HOST:PORT of the first of several processes; clusters tell it")
    parser.add_argument("--process-count", type=int, default=0, help="processes of this run")
    parser.add_argument("--process-index", type=int, default=-1, help="of this one, from 0")
    args, overrides = parser.parse_known_args(argv)
    return cli.run(lambda: _work(args, overrides), parser.prog)


def _work(args: argparse.Namespace, overrides: list[str]) -> int:
    config = read_config(args.config, overrides)
    if args.dry_run:
        return _dry_run(config)
    if args.workdir is None:
        raise InputError("no work folder given; add --workdir FOLDER")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(compiled_folder() / "xla"))  # a run that goes on need not compile again
    from diffbir_jax.training.processes import Processes  # JAX loads only for a good command line

    Processes(args.coordinator, args.process_count, args.process_index).join()
    from diffbir_jax.training.loop import train

    train(config, args.workdir)
    return 0


def _dry_run(config: Any) -> int:
    import jax

    from diffbir_jax.training.checks import check, check_devices
    from diffbir_jax.training.cost import cost_of
    from diffbir_jax.training.networks import FROZEN

    config.data.source = config.data.source or ("" if config.data.folder else "synthetic")  # no photographs are needed for it
    check(config)
    check_devices(config, jax.device_count())
    print(config)
    if FROZEN[config.task] and not config.random_networks and not (Path(config.model_folder) / "model.json").exists():
        print(f"{config.model_folder} has no model.json; of the networks read from it the released ones are counted")
    print(cost_of(config, jax.device_count()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
