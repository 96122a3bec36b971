"""A table in Markdown, for the results of studies and benchmarks."""

from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """One row a line, cells as they are."""
    rows = [f"| {' | '.join(line)} |\n" for line in lines]
    return f"| {' | '.join(header)} |\n|{'---|' * len(header)}\n{''.join(rows)}"
