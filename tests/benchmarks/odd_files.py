"""What the restore command does with a folder of odd files: a row each.

python tests/benchmarks/odd_files.py [flags of diffbir_jax.restore, as --max-megapixels 10]

Runs the embedded model, 2 steps, on the files of tests/odd_files.py; a few minutes on two cores.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from odd_files import make_odd_files


def main(flags: list[str]) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        folder, output = Path(scratch, "in"), Path(scratch, "out")
        folder.mkdir()
        made = make_odd_files(folder)
        command = [
            sys.executable,
            "-m",
            "diffbir_jax.restore",
            str(folder),
            "--output",
            str(output),
            "--model",
            "tiny",
            "--steps",
            "2",
        ]
        done = subprocess.run([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = done.stdout.splitlines()
    print("| file | is | what happened |\n| --- | --- | --- |")
    for name, what in made.items():
        said = next((line for line in lines if str(folder / name) in line), "nothing was said")
        print(f"| {name} | {what} | {said.replace(f'{folder}/', '').replace(f'{output}/', '')} |")
    whole = done.returncode == 1 and all(any(str(folder / name) in line for line in lines) for name in made)
    print("" if whole else f"\nexit code {done.returncode}, and it ended with: {lines[-1:]}")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
