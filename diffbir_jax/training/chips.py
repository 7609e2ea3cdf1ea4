"""Published figures of accelerators."""

from typing import NamedTuple

GIB, GB, TERA = 2**30, 1e9, 1e12


class Chip(NamedTuple):
    """Dense bfloat16 FLOP/s, bytes of memory, bytes/s of the memory, and bytes/s of all links to other chips together."""

    kind: str  # a part of JAX's name for it
    flops: float
    memory: float
    bandwidth: float
    links: float


CHIPS = {  # by the names of topologies; the longer of two kinds that begin alike first
    "a100": Chip("A100", 312 * TERA, 80 * GIB, 2039 * GB, 600 * GB),
    "h100": Chip("H100", 989 * TERA, 80 * GIB, 3350 * GB, 900 * GB),
    "v4": Chip("TPU v4", 275 * TERA, 32 * GIB, 1228 * GB, 300 * GB),
    "v5e": Chip("TPU v5 lite", 197 * TERA, 16 * GIB, 819 * GB, 200 * GB),
    "v5p": Chip("TPU v5", 459 * TERA, 95 * GIB, 2765 * GB, 600 * GB),
    "v6e": Chip("TPU v6", 918 * TERA, 32 * GIB, 1640 * GB, 448 * GB),
}
OTHERS = {  # FLOP/s of kinds that no topology is made of
    "H200": 989 * TERA, "H100 PCIe": 756 * TERA, "TPU v5e": 197 * TERA, "TPU v3": 123 * TERA, "L40S": 362 * TERA,
    "V100": 125 * TERA, "L4": 121 * TERA, "A10": 125 * TERA, "T4": 65 * TERA, "RTX 4090": 165 * TERA,
}  # fmt: skip


def peak_flops(kind: str) -> float | None:
    """Published bfloat16 FLOP/s of a kind of device; None: not in the tables."""
    known = OTHERS | {chip.kind: chip.flops for chip in CHIPS.values()}
    found = [name for name in known if name in kind]
    return known[max(found, key=len)] if found else None
