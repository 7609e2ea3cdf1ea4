"""Operations as JSON and back, exactly: what is drawn once can be replayed."""

import json
import typing
from collections.abc import Iterable
from dataclasses import MISSING, asdict, fields
from typing import Any

from diffbir_jax.degradation.checks import is_number
from diffbir_jax.degradation.operations import INTERPOLATIONS, Operation
from diffbir_jax.errors import InputError

OPERATIONS = {cls.__name__: cls for cls in typing.get_args(Operation)}
NAMES = {"kind": ("gaussian", "generalised", "plateau"), "interpolation": tuple(INTERPOLATIONS)}
LIMITS = {
    "size": (1, 101),
    "sigma_x": (1e-3, 100),
    "sigma_y": (1e-3, 100),
    "rotation": (-7, 7),
    "beta": (0.05, 20),
    "cutoff": (0.05, 3.1416),
    "height": (1, 65535),
    "width": (1, 65535),
    "sigma": (0, 1),
    "scale": (0, 100),
    "shot": (0, 1),
    "read": (0, 1),
    "red_gain": (1, 8),
    "blue_gain": (1, 8),
    "quality": (1, 100),
    "seed": (0, 2**63 - 1),
}


def to_json(operations: Iterable[Operation], **about: Any) -> str:
    """A JSON object: `about`, then the "operations", each by its name and fields. Numbers come back to the last bit."""
    listed = [{"operation": type(operation).__name__} | asdict(operation) for operation in operations]
    return json.dumps(about | {"operations": listed}, indent=1) + "\n"


def from_json(text: str) -> tuple[tuple[Operation, ...], dict[str, Any]]:
    """The operations, and what `to_json` was told about them.

    Raises:
        InputError: not such a JSON object, an unknown operation, or a field missing, unknown or out of its bounds.
    """
    try:
        stored = json.loads(text)
    except ValueError as error:
        raise InputError(f"no JSON: {error}") from None
    if not isinstance(stored, dict) or not isinstance(stored.get("operations"), list):
        raise InputError('no degradation; give a JSON object with a list "operations", as --save-params writes it')
    return tuple(map(read_operation, stored.pop("operations"))), stored


def read_operation(stored: Any) -> Operation:
    """One operation from its JSON object."""
    given = dict(stored) if isinstance(stored, dict) else {}
    cls = OPERATIONS.get(str(given.pop("operation", None)))
    if cls is None:
        raise InputError(f'{json.dumps(stored)} is no operation; its "operation" should be one of {", ".join(OPERATIONS)}')
    known = {field.name: field for field in fields(cls)}
    for name in given.keys() - known.keys():
        raise InputError(f"{cls.__name__} has no field {name}; give {', '.join(known)}")
    for name, field in known.items():
        if name not in given and field.default is MISSING:
            raise InputError(f"{cls.__name__} lacks its field {name}")
    return cls(**{name: _read_value(f"{cls.__name__}.{name}", name, known[name].type, value) for name, value in given.items()})


def _read_value(path: str, name: str, kind: Any, value: Any) -> Any:
    if name in NAMES:
        good, accepted = value in NAMES[name], f"one of {', '.join(NAMES[name])}"
    elif name == "mixing":
        good, accepted = _is_matrix(value), "three lists of three numbers"
        value = tuple(map(tuple, value)) if good else value
    elif kind is bool:
        good, accepted = isinstance(value, bool), "true or false"
    else:
        least, most = LIMITS[name]
        odd, whole = name == "size", kind is int
        good = is_number(value) and least <= value <= most and isinstance(value, int | kind) and (not odd or value % 2 == 1)
        accepted = f"{'an odd' if odd else 'a whole' if whole else 'a'} number from {least} to {most}"
    if not good:
        raise InputError(f"{path} is {json.dumps(value)}; give {accepted}")
    return float(value) if kind is float else value


def _is_matrix(value: Any) -> bool:
    rows = value if isinstance(value, list) and len(value) == 3 else [None]
    return all(isinstance(row, list) and len(row) == 3 and all(is_number(x) and abs(x) <= 1 for x in row) for row in rows)
