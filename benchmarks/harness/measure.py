"""One benchmark by its name: its rows, its table, its results."""

import importlib
import sys

from benchmarks.harness import results
from moejax.errors import UserError


def failed(name: str, quick: bool = False) -> bool:
    """Measure; whether something that a user can mend was in the way, which is printed."""
    try:
        measure(name, quick)
    except UserError as error:
        print(error, file=sys.stderr)
        return True
    return False


def measure(name: str, quick: bool) -> None:
    """One benchmark: its table is printed, of what there is where something stops it; only whole results are kept."""
    benchmark, rows = importlib.import_module(f"benchmarks.suite.{name}"), []
    try:
        for row in benchmark.run(quick):
            rows.append(row)
    finally:
        if rows:
            print(f"\n{benchmark.__doc__.splitlines()[0]}\n\n{benchmark.table(rows)}")
    if quick:
        return
    device = getattr(benchmark, "DEVICE", None)
    written = results.write(name, rows, benchmark.table(rows), device=device, turns=benchmark.TURNS)
    print(written)
    from benchmarks.harness import draw

    if name in draw.FIGURES:
        print(draw.draw(written))
