"""Dataclasses that check themselves: each field carries its check, and says its own name when it fails."""

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

from diffbir_jax.errors import InputError

Number = int | float
Range = tuple[Number, Number]
T = TypeVar("T")


@dataclass(frozen=True)
class Checked:
    """Fields made by `between`, `share`, `one_of` or `shares` are checked; lists, as configs hold them, become tuples."""

    def __post_init__(self):
        for each in fields(self):
            object.__setattr__(self, each.name, check_value(each, getattr(self, each.name)))


def check_value(each: Field, value: Any) -> Any:
    """The value for a field, checked; a list or a single value becomes a tuple where the field holds one."""
    if isinstance(each.default, tuple):
        value = tuple(value) if isinstance(value, list | tuple) else (value,)
    each.metadata.get("check", lambda name, value: None)(each.name, value)
    return value


def checked(default: Any, check: Callable[[str, Any], None]) -> Any:
    """A field with a check, which gets its name and value."""
    return field(default=default, metadata={"check": check})


def between(default: Range, least: Number, most: Number, whole: bool = False, odd: bool = False) -> Any:
    """A field (min, max) with least <= min <= max <= most; `whole` numbers only, or `odd` ones only."""
    kind = "odd numbers " if odd else "whole numbers " if whole or odd else ""

    def check(name: str, value: tuple) -> None:
        good = len(value) == 2 and all(map(is_number, value)) and least <= value[0] <= value[1] <= most
        if not good or (whole or odd) and any(x % 1 for x in value) or odd and not all(x % 2 for x in value):
            raise InputError(f"{name} is {value}; give {kind}(min, max) with {least} <= min <= max <= {most}")

    return checked(default, check)


def share(default: Number) -> Any:
    """A field of a probability."""

    def check(name: str, value: Any) -> None:
        if not is_number(value) or not 0 <= value <= 1:
            raise InputError(f"{name} is {value!r}; give a probability, 0 to 1")

    return checked(default, check)


def number(default: Number, least: Number, most: Number) -> Any:
    """A field of one number."""

    def check(name: str, value: Any) -> None:
        if not is_number(value) or not least <= value <= most:
            raise InputError(f"{name} is {value!r}; give a number from {least} to {most}")

    return checked(default, check)


def one_of(default: tuple[str, ...], known: tuple[str, ...]) -> Any:
    """A field of names to draw from."""

    def check(name: str, value: tuple) -> None:
        if not value or not all(x in known for x in value) or len(set(value)) < len(value):
            raise InputError(f"{name} is {value}; give one or more of {', '.join(known)}, each once")

    return checked(default, check)


def shares(default: tuple[Number, ...]) -> Any:
    """A field of probabilities that sum to 1."""

    def check(name: str, value: tuple) -> None:
        if not all(map(is_number, value)) or min(value, default=-1) < 0 or not abs(sum(value) - 1) <= 1e-6:
            raise InputError(f"{name} is {value}; give probabilities, 0 to 1, that sum to 1")

    return checked(default, check)


def check_count(name: str, value: tuple, of: str, count: int) -> None:
    """Raises an InputError unless the tuple has as many entries as there are `of`."""
    if len(value) != count:
        raise InputError(f"{name} is {value}; give {count} numbers, one for each of {of}")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def override(config: T, changes: Mapping[str, Any], path: str = "") -> T:
    """`config` (a dataclass, perhaps of dataclasses) with the fields that `changes` gives, nested or by dotted names.

    Raises:
        InputError: an unknown field, or a value that a field refuses; `path` and the dots lead to it.
    """
    known = {each.name: each for each in fields(config)}
    values = {}
    for name, value in nest(changes).items():
        if name not in known:
            raise InputError(f"{path}{name} is no field of this recipe; give one of {', '.join(path + each for each in known)}")
        inner = is_dataclass(getattr(config, name))
        values[name] = _override_inner(config, name, value, path) if inner else _checked(path, check_value, known[name], value)
    return _checked(path, replace, config, **values)


def _override_inner(config: Any, name: str, value: Any, path: str) -> Any:
    old = getattr(config, name)
    if not isinstance(value, Mapping):
        raise InputError(f"{path}{name} is {value!r}; it has the fields {', '.join(each.name for each in fields(old))}: set one")
    return override(old, value, f"{path}{name}.")


def _checked(path: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What the function returns; the field that its InputError names gets the path before."""
    try:
        return function(*args, **kwargs)
    except InputError as error:
        raise InputError(f"{path}{error}") from None


def nest(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as mappings in mappings: {"a.b": 1, "a": {"c": 2}} is {"a": {"b": 1, "c": 2}}."""
    nested: dict[str, Any] = {}
    for name, value in changes.items():
        head, _, rest = str(name).partition(".")
        value = {rest: value} if rest else value
        old = nested.get(head)
        nested[head] = {**old, **value} if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return nested
