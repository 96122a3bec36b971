"""The picture of a result, beside it.  python -m benchmarks draw RESULTS.json"""

import argparse
from pathlib import Path

import matplotlib

from benchmarks.harness.results import read
from benchmarks.suite.pictures import FIGURES
from moejax.errors import UserError
from moejax.report.style import DPI, STYLE, entitle


def draw(file: Path) -> Path:
    """Draw a result; returns the picture's path.

    Raises:
      UserError: it is no result that has a picture.
    """
    if file.stem not in FIGURES:
        raise UserError(f"{file} has no picture; name the results of {' or '.join(FIGURES)}.")
    rows, device = read(file)
    heading, figure = FIGURES[file.stem]
    with matplotlib.rc_context(STYLE):
        try:
            made = figure(rows)
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{file} has other rows than {file.stem} writes; make it anew by  python -m benchmarks {file.stem}"
            ) from None
        entitle(made, f"{heading} · {device}")
        picture = file.with_suffix(".png")
        made.savefig(picture, dpi=DPI)
    return picture


def main(arguments: list[str]) -> int:
    """Draw it; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks draw", description=__doc__)
    parser.add_argument("results", type=Path, metavar="RESULTS.json")
    print(draw(parser.parse_args(arguments).results))
    return 0
