"""The picture of a result, beside it.  python -m benchmarks draw RESULTS.json"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib

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
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{file} is no results file of a benchmark; name one of benchmarks/results/*/*.json.") from None
    heading, figure = FIGURES[file.stem]
    with matplotlib.rc_context(STYLE):
        made = figure(results["rows"])
        entitle(made, f"{heading} · {results['environment']['device']}")
        picture = file.with_suffix(".png")
        made.savefig(picture, dpi=DPI)
    return picture


def main(arguments: list[str]) -> int:
    """Draw it; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks draw", description=__doc__)
    parser.add_argument("results", type=Path, metavar="RESULTS.json")
    try:
        print(draw(parser.parse_args(arguments).results))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
