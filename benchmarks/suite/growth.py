"""How do a layer's time and memory grow?  python -m benchmarks growth   (5 minutes on two CPU cores)

Forward, with the gradients of the tokens and of every parameter. From one base shape tokens, experts, k and width are
varied by themselves, each time by a factor of two. Beside each time stands the least one, of the unavoidable FLOPs and
bytes at the rates measured here (`limit`); beside the memory that a program needs at its peak, the least: parameters,
tokens, and the gradients of both.
"""

from collections.abc import Iterator

import numpy as np

from benchmarks.harness.interleave import interleave
from benchmarks.suite.cases import Case, as_taken, forward_backward, makers, program, tokens
from benchmarks.suite.limit import Limit, limit_of, unavoidable
from moejax.report.markdown import markdown

TURNS = 5
BASE = Case(tokens=2048, d=256, h=512, experts=16, k=2)
SWEEPS = {
    "tokens": [256, 512, 1024, 2048, 4096, 8192, 16384, 32768],
    "experts": [4, 8, 16, 32, 64, 128, 256],
    "k": [1, 2, 4, 8, 16],
    "d": [64, 128, 256, 512, 1024, 2048],
}
LAYERS = ("einsum", "gather", "grouped", "soft")
SMALL = Case(tokens=64, d=16, h=32, experts=4, k=2)


def cases(quick: bool) -> list[Case]:
    """The base shape, then each sweep, every case once."""
    if quick:
        return [SMALL]
    every = (BASE._replace(**{name: value}) for name, values in SWEEPS.items() for value in values)
    return list(dict.fromkeys([BASE, *every]))


def held(case: Case) -> float:
    """Bytes that any such layer holds at once: parameters, tokens, outputs, and gradients of all of them."""
    return 4 * (2 * 2 * case.experts * case.d * case.h + 4 * case.tokens * case.d)


def row_of(case: Case, turns: int, limit: Limit) -> dict:
    """Milliseconds and megabytes of each layer, and the least of both."""
    make, arrays = makers(case), tokens(case)
    programs = {name: program(forward_backward, make[name](), *as_taken(name, case, *arrays)) for name in LAYERS}
    seconds = interleave({name: p.call for name, p in programs.items()}, turns)
    least = limit.seconds(*unavoidable(case, "forward_backward"))
    return {
        "case": case._asdict(),
        "least": {"ms": 1e3 * least, "mb": held(case) / 1e6},
        "layers": {
            name: {"ms": float(1e3 * np.median(seconds[name])), "mb": programs[name].peak_bytes / 1e6}
            for name in LAYERS
        },
    }


def table(rows: list[dict]) -> str:
    """One line a case: the least time and memory, and each layer's as multiples of them."""

    def line(row: dict) -> list[str]:
        case, least = row["case"], row["least"]
        cells = (f"{of['ms'] / least['ms']:.2f}×, {of['mb'] / least['mb']:.2f}×" for of in row["layers"].values())
        return [str(Case(**case)), f"{least['ms']:.1f} ms, {least['mb']:.0f} MB", *cells]

    return markdown(["T, d, h, E, k", "least", *rows[0]["layers"]], map(line, rows))


def run(quick: bool) -> Iterator[dict]:
    """Measure all cases."""
    turns = 2 if quick else TURNS
    limit = limit_of("float32", turns, 512 if quick else None)
    for case in cases(quick):
        yield row_of(case, turns, limit)
        print(f"growth: {case} measured", flush=True)
