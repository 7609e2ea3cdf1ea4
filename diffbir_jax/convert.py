"""Convert SwinIR (stage 1) and the control branch (stage 2) between the original's checkpoints and our model folders."""

import argparse
import sys
from pathlib import Path
from typing import Any

from diffbir_jax import cli
from diffbir_jax.errors import InputError

PROG = "diffbir_jax.convert"
NAMES = {"SwinIR": "stage1", "LAControlNet": "control"}  # of a model folder's networks


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog=PROG, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{to-jax,to-torch}")
    to_jax = commands.add_parser("to-jax", help="checkpoints to a model folder", description="Checkpoints to a model folder.")
    to_jax.add_argument("source", nargs="+", type=Path, help="checkpoints: .safetensors, .pth, .pt, .ckpt")
    to_jax.add_argument("--output", required=True, type=Path, help="model folder to write or add to")
    to_jax.add_argument("--head-dim", type=int, help="size of a control branch's attention heads, if it is not the released 64")
    to_torch = commands.add_parser("to-torch", help="a model folder to checkpoints", description="A model folder to checkpoints.")
    to_torch.add_argument("model", type=Path, help="model folder")
    to_torch.add_argument("--output", required=True, type=Path, help="folder to write: stage1 and control, what the model has")
    to_torch.add_argument("--format", choices=("pth", "safetensors"), default="pth", help="pth needs PyTorch")
    to_torch.add_argument("--image-size", type=int, default=64, help="the original's img_size, which SwinIR's masks are for")
    args = parser.parse_args(argv)
    return convert_to_jax(args) if args.command == "to-jax" else convert_to_torch(args)


def convert_to_jax(args: argparse.Namespace) -> int:
    """Reads and checks every checkpoint before it writes any."""
    from diffbir_jax.imaging.files import prepare_folder
    from diffbir_jax.weights.folder import read_card, save_network

    networks = {}
    for path in args.source:
        net, params = read_network(path, args.head_dim)
        name = NAMES[type(net).__name__]
        if name in networks:
            raise InputError(f"{path} is a second {type(net).__name__}; convert it to another folder")
        networks[name] = net, params
    if (args.output / "model.json").exists():
        read_card(args.output)
    prepare_folder(args.output)
    for name, (net, params) in networks.items():
        save_network(args.output, name, net, params)
        print(f"wrote {args.output / name}.safetensors")
    return 0


def read_network(path: Path, head_dim: int | None) -> tuple[Any, dict[str, Any]]:
    """The network of a checkpoint and its parameters; prints what was found.

    Raises:
        InputError: the file cannot be read, or is of no known network.
    """
    from diffbir_jax.weights.released import IMAGE_SIZE, image_size, ours, recognise
    from diffbir_jax.weights.torch_files import read_state

    state = read_state(path)
    try:
        net = recognise(state, head_dim)
        params, unused = ours(net, state)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    kind = type(net).__name__
    print(f"{path}: {kind}, {len(state) - len(unused)} tensors")
    if unused:
        print(f"{path}: {len(unused)} not needed: {', '.join(unused[:5])}{', …' if len(unused) > 5 else ''}")
    if kind == "SwinIR" and (size := image_size(net, state)) != IMAGE_SIZE:
        print(f"{path}: its masks are for {size}x{size} tokens; to write them back, give to-torch --image-size {size}")
    return net, params


def convert_to_torch(args: argparse.Namespace) -> int:
    """Converts every network the original has a file for before it writes any."""
    from diffbir_jax.imaging.files import prepare_folder
    from diffbir_jax.weights.folder import load_network, read_card
    from diffbir_jax.weights.released import released
    from diffbir_jax.weights.torch_files import require_torch, write_state

    if args.format == "pth":
        require_torch("--format pth")
    held = read_card(args.model)["networks"]
    names = [name for name in NAMES.values() if name in held]
    if not names:
        raise InputError(f"{args.model} holds neither {' nor '.join(NAMES.values())}, but {', '.join(held) or 'nothing'}")
    states = {name: released(*load_network(args.model, name), args.image_size) for name in names}
    prepare_folder(args.output)
    for name, state in states.items():
        write_state(args.output / f"{name}.{args.format}", state)
        print(f"wrote {args.output / name}.{args.format}: {len(state)} tensors")
    if left := sorted(set(held) - set(names)):
        print(f"left out, as only stage1 and control can be converted: {', '.join(left)}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, PROG))
