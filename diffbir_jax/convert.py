"""Convert weights: the released checkpoints and diffusers folders to a model folder, and a model folder back to either."""

import argparse
import sys
from pathlib import Path

from diffbir_jax import cli
from diffbir_jax.weights.registry import PRESETS

PROG = "diffbir_jax.convert"
KNOWN = """Known are Stable Diffusion 2.1's .ckpt, the control branches (v1_general.pth, v1_face.pth, v2.pth, DiffBIR_v2.1.pt), the
stage 1 networks (SwinIR, BSRNet, SCUNet), version 1's full checkpoints, and the diffusers folder of Stable Diffusion 2.1. Which
network a file is, its keys and shapes tell. What no network needs is reported, kept beside it and written back by to-torch."""


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog=PROG, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{to-jax,to-torch,to-diffusers}")
    to_jax = commands.add_parser("to-jax", help="checkpoints to a model folder", description=f"To a model folder. {KNOWN}")
    to_jax.add_argument("source", nargs="+", type=Path, help="checkpoints (.safetensors, .pth, .pt, .ckpt), diffusers folders")
    to_jax.add_argument("--output", required=True, type=Path, help="model folder to write or add to")
    to_jax.add_argument(
        "--preset", choices=tuple(PRESETS), help="version that the files are of, if their hashes and names do not tell"
    )
    to_jax.add_argument("--head-dim", type=int, help="size of the attention heads, if it is not the released 64")
    to_torch = commands.add_parser("to-torch", help="a model folder to the files it came from", description="To checkpoints.")
    to_torch.add_argument("model", type=Path, help="model folder")
    to_torch.add_argument("--output", required=True, type=Path, help="folder to write")
    to_torch.add_argument("--format", choices=("pth", "safetensors"), help="None: as the files were; pth needs PyTorch")
    to_diffusers = commands.add_parser("to-diffusers", help="a model folder to a diffusers folder", description="To diffusers.")
    to_diffusers.add_argument("model", type=Path, help="model folder")
    to_diffusers.add_argument("--output", required=True, type=Path, help="folder to write: unet, vae, text_encoder, tokenizer")
    return _run(parser.parse_args(argv))


def _run(args: argparse.Namespace) -> int:
    from diffbir_jax.weights import conversion  # JAX loads only for a good command line

    if args.command == "to-jax":
        conversion.to_jax(args.source, args.output, args.preset, args.head_dim)
    elif args.command == "to-torch":
        conversion.to_torch(args.model, args.output, args.format)
    else:
        conversion.to_diffusers(args.model, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, PROG))
