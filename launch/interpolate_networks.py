"""A model whose control branch and UNet lie between those of two (network interpolation; Wang et al. 2018, ESRGAN, section 3.4).

python launch/interpolate_networks.py BEFORE AFTER OUTPUT [--share 0.5]

BEFORE and AFTER are model folders of one architecture, AFTER trained on from BEFORE. The rest of the model is that of BEFORE.
"""

import argparse
import shutil
from pathlib import Path

import jax
import numpy as np

from diffbir_jax.weights.folder import load_network, save_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("before", "after", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="0 is BEFORE, 1 is AFTER")
    args = parser.parse_args()
    shutil.copytree(args.before, args.output)
    for name in ("unet", "control"):
        (net, before), (_, after) = (load_network(folder, name, np.float32) for folder in (args.before, args.after))
        between = jax.tree.map(lambda a, b: (1 - args.share) * a + args.share * b, before, after)
        save_network(args.output, name, net, between, np.float16)


if __name__ == "__main__":
    main()
