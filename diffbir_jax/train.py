"""Train a network: python -m diffbir_jax.train --config configs/tiny_stage1.py --workdir RUN [--config.key=value …].

Started again with the same arguments it goes on from the newest checkpoint in the work folder.
"""

import ast
import functools
import runpy
import sys
from pathlib import Path
from typing import Any

from diffbir_jax import cli
from diffbir_jax.errors import InputError

PREFIX = "--config."


def read_config(argument: str, overrides: list[str]) -> Any:
    """The ConfigDict of a recipe `FILE.py` or `FILE.py:size`, with "--config.KEY=VALUE" applied.

    Raises:
        InputError: no such file or size, an unknown key, a value of another type.
    """
    path, _, size = argument.partition(":")
    if not Path(path).is_file():
        raise InputError(f"there is no recipe {path}; give a file, for example configs/tiny_stage1.py")
    get_config = runpy.run_path(path).get("get_config")
    if get_config is None:
        raise InputError(f"{path} has no get_config(); give a recipe, for example configs/tiny_stage1.py")
    config = get_config(size) if size else get_config()
    for override in overrides:
        if not override.startswith(PREFIX) or "=" not in override:
            raise InputError(f"{override} was not understood; the flags are --config, {PREFIX}KEY=VALUE and --workdir")
        key, _, text = override.removeprefix(PREFIX).partition("=")
        *groups, name = key.split(".")
        try:
            group = functools.reduce(getattr, groups, config)
            group[name] = _value(text)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).strip("'\"").split()).partition(" and cannot be added")[0]
            raise InputError(f"{override} does not fit the recipe: {reason}") from None
    return config


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog="diffbir_jax.train", description=__doc__.strip())
    parser.add_argument("--config", required=True, help="a recipe, configs/NAME.py, or configs/NAME.py:smoke for the small one")
    parser.add_argument("--workdir", required=True, type=Path, help="folder for checkpoints and TensorBoard files")
    args, overrides = parser.parse_known_args(argv)

    def work() -> int:
        config = read_config(args.config, overrides)
        from diffbir_jax.training.loop import train  # JAX loads only for a good command line

        train(config, args.workdir)
        return 0

    return cli.run(work, parser.prog)


if __name__ == "__main__":
    sys.exit(main())
