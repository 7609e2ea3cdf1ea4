"""A model whose UNet, control branch and autoencoder lie between those of two (network interpolation; ESRGAN, section 3.4).

python launch/interpolate_networks.py BEFORE AFTER OUTPUT [--share 0.5]

BEFORE and AFTER are model folders of one architecture, AFTER trained on from BEFORE. The rest of the model is that of BEFORE; what
lies between is stored in half precision.
"""

import argparse
import shutil
import sys
from pathlib import Path

import jax
import numpy as np

from diffbir_jax import InputError, cli
from diffbir_jax.weights.folder import load_network, save_network


def interpolate(before: Path, after: Path, output: Path, share: float) -> int:
    """Writes OUTPUT. InputError: it is there, a folder is no model, or they are of two architectures."""
    if output.exists():
        raise InputError(f"{output} exists; give a new folder")
    between = {}
    for name in ("unet", "control", "autoencoder"):
        (net, a), (other, b) = (load_network(folder, name, np.float32) for folder in (before, after))
        if net != other:
            raise InputError(f"{name} of {before} and {after} differ in their sizes; give models of one architecture")
        between[name] = net, jax.tree.map(lambda x, y: (1 - share) * x + share * y, a, b)
    shutil.copytree(before, output)
    for name, (net, params) in between.items():
        save_network(output, name, net, params, np.float16)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("before", "after", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="0 is BEFORE, 1 is AFTER")
    args = parser.parse_args()
    return cli.run(lambda: interpolate(args.before, args.after, args.output, args.share), "interpolate_networks")


if __name__ == "__main__":
    sys.exit(main())
