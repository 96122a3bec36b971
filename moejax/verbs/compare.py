"""`moejax compare RUN RUN …`: accuracy with intervals, McNemar's p, load, speed, curves, and what differs.

moejax compare runs/mnist_dense-20260101-120000 runs/mnist_soft-20260101-120200
moejax compare runs/sweep-mnist_sparse/*/ --out sparse.html
moejax compare runs/a runs/b --json

Prints tables and writes a page with the same tables, and with figures. Runs of other data than the first with
answers are named and left out.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from moejax.verbs.parser import Parser, place_of


def parser() -> Parser:
    """Two runs' folders or more."""
    parser = Parser("compare", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders that moejax run wrote")
    parser.add_argument("--out", metavar="FILE", help="the page (default comparison.html beside the first run)")
    parser.add_argument("--json", action="store_true", help="an object: scores, pairs, differences, the page's path")
    return parser


def main(words: Sequence[str]) -> None:
    """Print the tables and the path of the page."""
    asked = parser().parse_args(words)
    out = place_of("--out", asked.out)
    from moejax.comparison import compare, tables

    comparison = compare([Path(run) for run in asked.runs])
    if not asked.json:
        from moejax.report.markdown import plain

        for sentence in comparison.remarks:
            print(f"note: {sentence}")
        for table in tables(comparison):
            print(f"\n{table.title}\n\n{plain(table.header, table.lines)}\n{table.note}")
        sys.stdout.flush()
    from moejax.comparison.page import draw  # a second of imports, after the answer

    page = draw(comparison, out or Path(asked.runs[0]).resolve().parent / "comparison.html")
    print(json.dumps(comparison.as_json() | {"page": str(page)}, indent=1) if asked.json else f"\npage: {page}")
