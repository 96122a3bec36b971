"""What crosses devices in a compiled program, read from its text, and what should in an expert-parallel layer.

A layer on a mesh of data × expert devices, forward and backward, by device:

    all-to-all   4 · slots            slots into the experts and answers back, and the derivatives of both
    all-reduce   experts / expert     gradients of its experts, over `data`; nothing if data is 1
                 rest                 gradients of all that is no expert, over all devices

in bytes, with slots = E · c · d · (groups of a device) ≈ k · capacity factor · (tokens of a device) · d numbers. None
of them grows with the number of devices: with twice the devices and twice the tokens, a device sends as much as before.
Of the bytes of an all-to-all, 1 / expert do not leave the device.

`grouped` sends as much, with ROOM in place of the capacity factor, and 4 bytes a row for the number of its expert. Only
while a choice is too uneven for that does it gather all tokens along `expert`: each way is a branch, a computation of
its own in the program.
"""

import re
from math import prod

_OPERATION = re.compile(
    r" = (?P<shapes>.*?)\s(?P<kind>all-to-all|all-gather|all-reduce|reduce-scatter|collective-permute)(-start)?\("
)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$", re.MULTILINE)
_SHAPE = re.compile(r"(?P<type>[a-z]+)(?P<bits>\d*)\[(?P<sizes>[\d,]*)\]")


def bytes_crossing(program: str) -> dict[str, int]:
    """By kind of collective operation, the bytes of its results on a device; `program` is the text of compiled HLO.

    An operation in a loop counts once.
    """
    total: dict[str, int] = {}
    for found in _OPERATION.finditer(program):
        total[found["kind"]] = total.get(found["kind"], 0) + sum(map(_bytes, _SHAPE.finditer(found["shapes"])))
    return total


def bytes_by_computation(program: str) -> dict[str, dict[str, int]]:
    """`bytes_crossing` of each computation in which something crosses, such as a branch, by its name."""
    begins = [*_COMPUTATION.finditer(program)]
    ends = [*(found.start() for found in begins[1:]), len(program)]
    each = {a["name"]: bytes_crossing(program[a.start() : end]) for a, end in zip(begins, ends, strict=True)}
    return {name: crossing for name, crossing in each.items() if crossing}


def _bytes(shape: re.Match) -> int:
    width = 1 if shape["type"] == "pred" else int(shape["bits"]) // 8
    return width * prod(int(n) for n in shape["sizes"].split(",") if n)


def expected(*, slots: int, experts: int, rest: int, data: int, expert: int, width: int = 4) -> dict[str, int]:
    """The formula: numbers in a device's slots, in all experts and in all else, to bytes of `width` a number."""
    return {
        "all-to-all": 4 * slots * width if expert > 1 else 0,
        "all-reduce": (rest + (experts // expert if data > 1 else 0)) * width,
    }
