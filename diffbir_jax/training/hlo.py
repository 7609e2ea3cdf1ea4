"""What a compiled program does, read off XLA's text of it (HLO): bytes moved and collectives, loops as often as they run."""

import re
from collections import Counter, defaultdict
from typing import NamedTuple

BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32, "s64": 64, "u64": 64,
        "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128}  # fmt: skip
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id", "iota"}
SLICES = {"slice", "dynamic-slice", "gather"}
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


class Instruction(NamedTuple):
    """A line of a computation: bytes of the result, operation, names of the operands, text in its brackets and after them."""

    bytes: int
    operation: str
    operands: tuple[str, ...]
    inside: str
    rest: str


Computation = dict[str, Instruction]


class Traffic(NamedTuple):
    """Bytes read and written by all instructions, and count and result bytes of every kind of collective."""

    bytes: int
    collectives: dict[str, tuple[int, int]]


def traffic(text: str) -> Traffic:
    """The traffic of one device in one run of a compiled program, from `Compiled.as_text()`.

    An instruction reads its operands and writes its result once, which no cache lessens; a slice of a larger array reads only what
    it returns. A loop runs as often as XLA states, or as the one number that its condition compares with, or else counts once.
    """
    computations, entry = parse(text)
    moved, counts, sizes = 0, Counter(), Counter()
    for times, instruction, scope in executed(computations, entry):
        kind = instruction.operation.removesuffix("-start")
        if kind in COLLECTIVES:
            result = instruction.bytes
            if instruction.operation.endswith("-start") and kind in ("all-gather", "collective-permute"):
                result -= sum(scope[name].bytes for name in instruction.operands if name in scope)  # (operand, result)
            counts[kind] += times
            sizes[kind] += times * result
        moved += times * _moved(instruction, scope, computations)
    return Traffic(moved, {kind: (counts[kind], sizes[kind]) for kind in counts})


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """A module's computations, name -> instructions by name, and the name of the entry."""
    computations, entry, current = {}, "", {}
    for line in text.splitlines():
        if found := COMPUTATION.match(line):
            current = computations.setdefault(found[2], {})
            entry = found[2] if found[1] else entry
        elif found := INSTRUCTION.match(line):
            inside, rest = _split(found[4])
            current[found[1]] = Instruction(_size(found[2]), found[3], tuple(re.findall(r"%([\w.\-]+)", inside)), inside, rest)
    return computations, entry


def executed(computations: dict[str, Computation], name: str, times: int = 1):
    """Every instruction that is no part of a fusion: how often it runs, itself, and the computation it stands in.

    Of a conditional's branches the first is taken.
    """
    for instruction in computations[name].values():
        called = re.findall(r"(?:body|calls|to_apply|\w+_computations?)=\{?%?([\w.\-]+)", instruction.rest)
        if instruction.operation == "while":
            body = re.search(r"body=%?([\w.\-]+)", instruction.rest)[1]
            yield from executed(computations, body, times * _runs(instruction, computations))
        elif instruction.operation in ("call", "async-start") and called:
            yield from executed(computations, called[0], times)
        elif instruction.operation == "conditional":
            yield from executed(computations, called[0], times)
        else:
            yield times, instruction, computations[name]


def _runs(loop: Instruction, computations: dict[str, Computation]) -> int:
    if stated := re.search(r'known_trip_count["=:{]+n"?:"?(\d+)', loop.rest):
        return int(stated[1])
    condition = computations[re.search(r"condition=%?([\w.\-]+)", loop.rest)[1]]
    limits = [int(x.inside) for x in condition.values() if x.operation == "constant" and x.inside.isdigit()]
    return limits[0] if len(limits) == 1 else 1


def _moved(instruction: Instruction, scope: Computation, computations: dict[str, Computation]) -> int:
    operation, sizes = instruction.operation, [scope[name].bytes if name in scope else 0 for name in instruction.operands]
    if operation in FREE or operation.endswith(("-done", "-update")):
        return 0
    if operation == "fusion":
        return _fused(sizes, instruction.bytes, computations[re.search(r"calls=%?([\w.\-]+)", instruction.rest)[1]])
    if operation == "dynamic-update-slice":
        return 2 * sizes[1]
    return instruction.bytes + (instruction.bytes if operation in SLICES else sum(sizes))


def _fused(sizes: list[int], result: int, inside: Computation) -> int:
    """Bytes of a fusion: of an operand that is only sliced the slices, of one that is updated in place the update."""
    users = defaultdict(list)
    for name, user in inside.items():
        for operand in user.operands:
            users[operand].append((name, user))

    def read(name: str, size: int) -> int:
        parts = 0
        for user, instruction in users[name]:
            if instruction.operation == "bitcast":
                parts += read(user, size)
            elif instruction.operation == "dynamic-update-slice" and instruction.operands[0] == name:
                parts += inside[instruction.operands[1]].bytes
            else:
                parts += instruction.bytes if instruction.operation in SLICES and instruction.operands[0] == name else size
        return min(parts, size)

    moved = sum(read(name, sizes[int(x.inside)]) for name, x in inside.items() if x.operation == "parameter")
    updates = [x for x in inside.values() if x.operation == "dynamic-update-slice" and x.bytes >= result]
    return moved + (inside[updates[0].operands[1]].bytes if updates else result)


def _split(rest: str) -> tuple[str, str]:
    """An instruction's operands and what follows its closing bracket."""
    depth = 1
    for i, character in enumerate(rest):
        depth += (character == "(") - (character == ")")
        if not depth:
            return rest[:i], rest[i + 1 :]
    return rest, ""


def _size(shape: str) -> int:
    """Bytes of an array or tuple, without its layout."""
    total = 0
    for kind, sizes in SHAPE.findall(re.sub(r"\{[^}]*\}", "", shape)):
        count = 1
        for n in filter(None, sizes.split(",")):
            count *= int(n)
        total += count * BITS.get(kind, 0)
    return total // 8
