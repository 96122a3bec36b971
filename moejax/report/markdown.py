"""A table as text: in Markdown, for the results of studies and benchmarks, and for a terminal."""

from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """One row a line, cells as they are."""
    rows = [f"| {' | '.join(line)} |\n" for line in lines]
    return f"| {' | '.join(header)} |\n|{'---|' * len(header)}\n{''.join(rows)}"


def plain(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """The same for a terminal: columns aligned, those of numbers at the right."""
    columns = list(zip(header, *lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(cell[:1] in "–-+<" or cell[:1].isdigit() for cell in column[1:]) for column in columns]

    def line(cells: Sequence[str]) -> str:
        placed = zip(cells, widths, right, strict=True)
        return "  ".join(cell.rjust(w) if at_right else cell.ljust(w) for cell, w, at_right in placed).rstrip()

    return "\n".join(map(line, [header, *lines])) + "\n"
