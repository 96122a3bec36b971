"""One benchmark by its name: its rows, its table, its results."""

import contextlib
import importlib
import sys
from types import ModuleType

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
    results.machine()
    try:
        for row in benchmark.run(quick):
            rows.append(row)
    except BaseException:
        with contextlib.suppress(Exception):  # a table may need all rows
            print(_titled(benchmark, rows))
        raise
    print(_titled(benchmark, rows))
    if quick:
        return
    device = getattr(benchmark, "DEVICE", None)
    written = results.write(name, rows, benchmark.table(rows), device=device, turns=benchmark.TURNS)
    print(written)
    from benchmarks.harness import draw

    if name in draw.FIGURES:
        print(draw.draw(written))


def _titled(benchmark: ModuleType, rows: list[dict]) -> str:
    return f"\n{(benchmark.__doc__ or '').splitlines()[0]}\n\n{benchmark.table(rows)}"
