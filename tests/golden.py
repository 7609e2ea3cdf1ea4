"""The golden vectors in tests/data: safetensors, the large ones packed (`NAME.safetensors.xz`)."""

import lzma
from pathlib import Path

import numpy as np
from safetensors.numpy import load, load_file

DATA = Path(__file__).parent / "data"


def vectors(name: str) -> dict[str, np.ndarray]:
    """All tensors of a file."""
    plain = DATA / f"{name}.safetensors"
    return load_file(plain) if plain.exists() else load(unpack(plain.with_name(f"{plain.name}.xz").read_bytes()))


def relative(name: str, ours, theirs) -> float:
    """The relative L2 distance, which `pytest -rP` shows: `pytest -rP | grep relative` is the table of all vectors."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    distance = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    print(f"{name}: relative L2 {distance:.1e}")
    return distance


def pack(data: bytes) -> bytes:
    """Compresses floats: first the lowest byte of every number, last the highest, as these repeat."""
    planes = np.frombuffer(data + bytes(-len(data) % 4), np.uint8).reshape(-1, 4).T
    return lzma.compress(planes.tobytes(), preset=9)


def unpack(data: bytes) -> bytes:
    """The inverse of `pack`, for data of whole 4-byte words."""
    return np.frombuffer(lzma.decompress(data), np.uint8).reshape(4, -1).T.tobytes()
