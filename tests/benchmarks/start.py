"""How long a start takes: help, importing, a first and a second restoration, each a command of its own.

python tests/benchmarks/start.py [--rounds 5] [--folder DIR]

A photograph of 300x200 pixels and the embedded model. The first restoration compiles its programs into an empty folder, the others
read them there; their median is printed. With --folder, of the weights that speed.py drew, also what comes before the first step at
Stable Diffusion 2.1's size and 512x512.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SAMPLE = Path(__file__).parents[2] / "diffbir_jax" / "assets" / "samples" / "sample_coffee.jpg"


def timed(*arguments: str, home: str, rounds: int = 1) -> float:
    """Seconds of a Python command, the median."""
    found = []
    for _ in range(rounds):
        begun = time.perf_counter()
        environment = os.environ | {"DIFFBIR_JAX_HOME": home}
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
        found.append(time.perf_counter() - begun)
    return float(np.median(found))


def full_size(folder: Path) -> None:
    """Prints the seconds of importing and loading weights, and of compiling the sampler, or reading it where it is on disk."""
    begun = time.perf_counter()
    from speed_sides import NETWORKS, Ours, inputs

    from diffbir_jax import RestoreOptions, pipeline, programs
    from diffbir_jax.model import Model
    from diffbir_jax.weights.registry import PRESETS

    made, given = Ours(folder, NETWORKS["restore"], 2, False), inputs("restore", 50)
    loaded = time.perf_counter() - begun
    model = Model(made.nets, made.params, PRESETS["v1-general"].sampling, {}, folder, {"": given["context"][0]})
    job = pipeline.Job(model, given["image"][0], RestoreOptions(tiles="off").completed({}))
    begun = time.perf_counter()
    programs.sample_program(model, pipeline.local_mesh(1), 1, job.frame, job.plan)
    [program] = programs._programs.values()
    if program._reading is not None:
        program._reading.result()
    print(f"importing and loading {loaded:.1f} s, sampler {time.perf_counter() - begun:.1f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="with speed.py's weights")
    parser.add_argument("--full-size", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.full_size:
        full_size(args.folder)
        return 0
    with tempfile.TemporaryDirectory() as home:
        restore = ("-m", "diffbir_jax.restore", str(SAMPLE), "--output")
        print(f"help {timed('-m', 'diffbir_jax.restore', '--help', home=home, rounds=args.rounds):.2f} s")
        print(f"import diffbir_jax {timed('-c', 'import diffbir_jax', home=home, rounds=args.rounds):.2f} s")
        print(f"import jax {timed('-c', 'import jax', home=home, rounds=args.rounds):.2f} s")
        print(f"first restoration {timed(*restore, f'{home}/first', home=home):.1f} s")
        print(f"second restoration {timed(*restore, f'{home}/second', home=home, rounds=args.rounds):.1f} s", flush=True)
        for start in ("first", "second") if args.folder else ():
            print(f"full size, {start}: ", end="", flush=True)
            command = [sys.executable, __file__, "--full-size", "--folder", str(args.folder)]
            subprocess.run(command, check=True, env=os.environ | {"DIFFBIR_JAX_HOME": home})
    return 0


if __name__ == "__main__":
    sys.exit(main())
