"""A run is killed before one of its file operations, twice, and goes on each time with another number of devices.

The devices, and how the run spreads over them, are drawn at each start. Sums over devices round in another order, so
arrays and metrics are near those of a run that nobody disturbed, on one device; its lines and files are the same.
"""

import random
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from moejax.runs import checkpoint
from tests.torture.figure import Figure
from tests.torture.lab import KINDS, RUN, Lab, each, needs_compiler, open_labs, undisturbed

SEED = 27
NEAR = 1e-5  # of arrays of about 1 and of metrics alike
# By how many devices there are, how a run may spread over them: along `data`, as `pmap`, or with shared experts.
DATA, PMAP, SHARED = ("jit", 1), ("pmap", 1), ("jit", 2)
WAYS = {1: [DATA], 2: [DATA, PMAP, SHARED], 3: [DATA, PMAP], 4: [DATA, PMAP, SHARED]}
Start = tuple[int, tuple[str, int]]


@needs_compiler
def torture(quick: bool) -> Iterator[Figure]:
    """Both kinds of runs, each killed at operations drawn by chance."""
    with open_labs() as labs:
        for kind, options in KINDS.items():
            yield _at_operations(labs, kind, [*RUN, *options], 2 if quick else 100)


def _at_operations(labs: list[Lab], kind: str, words: list[str], count: int) -> Figure:
    expected, operations = undisturbed(labs[0], words)
    expected |= {"arrays": _arrays(labs[0])}
    draw = random.Random(SEED)
    cases = [(_starts(draw), [draw.randint(1, len(operations)) for _ in range(2)]) for _ in range(count)]
    furthest: list[float] = []

    def attempt(lab: Lab, case: tuple[list[Start], list[int]]) -> tuple[int, int]:
        starts, numbers = case
        lab.clear()
        where = f"{starts}, killed before {numbers}"
        killed = 0
        for start, number in zip(starts, [*numbers, 0], strict=True):
            code = _on(lab, words, start, number)
            killed += code == -9
            if code not in (0, -9 if number else 0):  # 0: it had fewer operations
                return killed, lab.problem(f"exit code {code} on {start}, of {where}")
        distance, problem = _compared(expected, lab.found() | {"arrays": _arrays(lab)})
        furthest.append(distance)
        return killed, lab.problem(f"{where}: {problem}") if problem else 0

    killed, wrong = each(labs, cases, attempt)
    what = f"killed twice at file operations ({kind}), gone on with on other devices, 1 to 4, by jit and pmap"
    found = f"{wrong} went on to another end" if wrong else "all went on to the same lines and files"
    return Figure(what, killed, f"{found}, arrays within {max(furthest, default=0):.0e}", not wrong and killed >= count)


def _starts(draw: random.Random) -> list[Start]:
    """Three, each with another number of devices than the one before."""
    starts: list[Start] = []
    while len(starts) < 3:
        devices = draw.choice([n for n in WAYS if not starts or n != starts[-1][0]])
        starts.append((devices, draw.choice(WAYS[devices])))
    return starts


def _on(lab: Lab, words: list[str], start: Start, number: int) -> int:
    devices, (strategy, expert) = start
    flags = f"--xla_force_host_platform_device_count={devices}"
    way = ["--parallel.strategy", strategy, "--parallel.expert", str(expert)]
    return lab.run(words, way=way, number=number, environment={"XLA_FLAGS": flags})


def _arrays(lab: Lab) -> dict[str, np.ndarray]:
    """The last checkpoint's; Adam's moments as one vector each, as where no experts are shared."""
    arrays = checkpoint.arrays(checkpoint.chosen(lab.seen.absolute() / "checkpoints", "last"))
    parts: dict[str, list[np.ndarray]] = {}
    for name in sorted(arrays):
        parts.setdefault(re.sub(r"(\.[mn]u)\..*", r"\1", name), []).append(np.ravel(np.asarray(arrays[name], float)))
    return {name: np.concatenate(part) for name, part in parts.items()}


def _compared(expected: dict[str, Any], found: dict[str, Any]) -> tuple[float, str]:
    """How far the arrays are from those expected, and what is wrong, if anything is."""
    if found["files"] != expected["files"]:
        return 0, f"other files: {sorted(set(found['files']) ^ set(expected['files']))}"
    if [line.keys() for line in found["metrics"]] != [line.keys() for line in expected["metrics"]]:
        return 0, "other lines in metrics.jsonl"
    if not all(_near(line, found_line) for line, found_line in zip(expected["metrics"], found["metrics"], strict=True)):
        return 0, "other numbers in metrics.jsonl"
    ours, theirs = expected["arrays"], found["arrays"]
    if {name: a.shape for name, a in ours.items()} != {name: a.shape for name, a in theirs.items()}:
        return 0, "other arrays"
    distance = max(float(np.abs(theirs[name] - ours[name]).max()) for name in ours)
    return distance, "" if distance <= NEAR else f"arrays {distance:.0e} away"


def _near(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_near(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_near, one, other))
    return one == other if isinstance(one, str | bool | None) else bool(np.isclose(one, other, rtol=NEAR, atol=NEAR))
