"""Has anything become slower?  python -m benchmarks compare OLD.json NEW.json [--tolerance 1.2]

Two results of one benchmark on one kind of device. Rows are matched by their settings; every time and rate in them
becomes one factor, above 1 where the new one is slower. Exit status 1 if a factor is above the tolerance, 2 if the
files cannot be compared.

python -m benchmarks compare --rev OLD --rev NEW --shape T,d,h,E,k: two commits, measured in turns.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import revisions
from benchmarks.harness.results import read
from benchmarks.harness.words import word
from moejax.errors import UserError
from moejax.options import Positive
from moejax.report.markdown import markdown

TOLERANCE = 1.2
SETTINGS = ("case", "dispatch", "preset", "layer", "batch_size", "dtype", "what", "seed")
# What a number under such a name is; the others (ratios, drops, sizes) are not compared.
TIMES = {"ms", "ms_per_step", "seconds", "compile_seconds"}
RATES = {"flops", "bandwidth", "routers", "examples_per_second", "tokens_per_second"}


class Change(NamedTuple):
    """One number in both files."""

    row: str  # its settings
    name: str  # where in the row it stands
    old: float
    new: float
    factor: float  # above 1: slower


def numbers(row: dict[str, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    """Every time and rate of a row, with the names that lead to it; those that were measured are above 0."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from numbers(value, (*place, name))
        elif isinstance(value, int | float) and value > 0 and (TIMES | RATES) & {*place, name}:
            yield (*place, name), float(value)


def changes(old: list[dict], new: list[dict]) -> list[Change]:
    """Of all numbers that both have."""
    before, found = {settings(row): dict(numbers(row)) for row in old}, []
    for row in new:
        key = settings(row)
        for place, value in numbers(row):
            if (was := before.get(key, {}).get(place)) is not None:
                factor = was / value if RATES & set(place) else value / was
                found.append(Change(key, ".".join(place), was, value, factor))
    return found


def settings(row: dict[str, Any]) -> str:
    """What tells a row from others, in words."""
    found = {}
    for name in SETTINGS:
        value = row.get(name, {})
        found |= value if isinstance(value, dict) else {name: value}
    return ", ".join(f"{name} {value}" for name, value in sorted(found.items()))


def compare(old: Path, new: Path) -> list[Change]:
    """What changed from one file to the other.

    Raises:
      UserError: they are of different devices, keep no times, or have no number in common.
    """
    (before, device), (after, other) = read(old), read(new)
    if device != other:
        raise UserError(f"{old} is of {device} and {new} of {other}; compare results of one kind of device.")
    try:
        for file, rows in ((old, before), (new, after)):
            if not any(dict(numbers(row)) for row in rows):
                raise UserError(f"{file} keeps no times, so that nothing in it can become slower; compare another one.")
        found = changes(before, after)
    except (RecursionError, OverflowError):
        raise UserError(f"{old} or {new} has other rows than a benchmark writes; make it anew.") from None
    if not found:
        raise UserError(f"{old} and {new} have no row in common; compare two results of one benchmark.")
    return found


def table(found: list[Change]) -> str:
    """One line a number, the worst first."""
    lines = [
        [change.row, change.name, f"{change.old:.4g}", f"{change.new:.4g}", f"{change.factor:.2f}×"]
        for change in sorted(found, key=lambda change: -change.factor)
    ]
    return markdown(["row", "number", "old", "new", "slower by"], lines)


def main(arguments: list[str]) -> int:
    """Print the table; the exit status."""
    if any(word.startswith("--rev") for word in arguments):
        return revisions.main(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, metavar="OLD.json")
    parser.add_argument("new", type=Path, metavar="NEW.json")
    parser.add_argument(
        "--tolerance", type=word(Positive), default=TOLERANCE, help="factor that is still allowed (%(default)s)"
    )
    asked = parser.parse_args(arguments)
    found = compare(asked.old, asked.new)
    slower = [change for change in found if change.factor > asked.tolerance]
    print(table(found))
    print(f"{len(slower)} of {len(found)} numbers are slower by more than {asked.tolerance:g}×.")
    return 1 if slower else 0
