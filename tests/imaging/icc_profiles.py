"""ICC profiles made for tests, version 2: LittleCMS adds no black point to those."""

import itertools
import struct
from collections.abc import Callable

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
PRIMARIES = {  # XYZ of red, green, blue, adapted to D50
    "Display P3": ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)),
    "Adobe RGB": ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)),
    "sRGB": ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)),
}
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def fixed(*numbers: float) -> bytes:
    """s15Fixed16."""
    return struct.pack(f">{len(numbers)}i", *(round(x * 65536) for x in numbers))


def gamma(power: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(power * 256))


def sampled(curve: Callable[[np.ndarray], np.ndarray], count: int = 1024) -> bytes:
    values = np.rint(curve(np.linspace(0, 1, count)) * 65535).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", count) + values.tobytes()


def parametric(*parameters: float) -> bytes:
    return b"para\0\0\0\0" + struct.pack(">HH", (1, 3, 4, 5, 7).index(len(parameters)), 0) + fixed(*parameters)


def rgb_profile(name: str, curve: bytes) -> bytes:
    xyz = {tag: b"XYZ \0\0\0\0" + fixed(*p) for tag, p in zip((b"rXYZ", b"gXYZ", b"bXYZ"), PRIMARIES[name], strict=True)}
    return _profile(b"RGB ", b"XYZ ", name, xyz | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


def grey_profile(curve: bytes) -> bytes:
    return _profile(b"GRAY", b"XYZ ", "Grey", {b"kTRC": curve})


def table_profile(space: bytes, lightness: Callable[..., float]) -> bytes:
    """A profile of a table with two points a channel: all colours become greys of CIE L* = lightness(channels in 0, 1)."""
    channels = len(space.strip())
    nodes = [(round(2.55 * lightness(*node)), 128, 128) for node in itertools.product((0, 1), repeat=channels)]
    ramp = bytes(range(256))
    table = struct.pack(">BBBB", channels, 3, 2, 0) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    lut = b"mft1\0\0\0\0" + table + ramp * channels + b"".join(map(bytes, nodes)) + ramp * 3
    return _profile(space, b"Lab ", "Table", {b"A2B0": lut})


def _profile(space: bytes, connection: bytes, name: str, tags: dict[bytes, bytes]) -> bytes:
    text = name.encode("utf-16-be")
    tags = tags | {b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50)}
    tags |= {b"desc": b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(text), 28) + text}
    place, rows, data = 128 + 4 + 12 * len(tags), b"", b""
    for tag, content in tags.items():
        rows += struct.pack(">4sII", tag, place + len(data), len(content))
        data += content + b"\0" * (-len(content) % 4)
    body = struct.pack(">I", len(tags)) + rows + data
    head = struct.pack(">I4sI4s4s4s", 128 + len(body), b"", 0x02400000, b"mntr", space, connection)
    return (head + b"\0" * 12 + b"acsp" + b"\0" * 28 + fixed(*D50)).ljust(128, b"\0") + body
