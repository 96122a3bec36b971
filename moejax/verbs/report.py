"""`moejax report RUN`: draw a run's report anew from its files.

moejax report runs/mnist_soft-20260101-120000
"""

import sys
from collections.abc import Sequence

from moejax.verbs.parser import Parser


def parser() -> Parser:
    """A run's folder."""
    parser = Parser("report", __doc__)
    parser.add_run()
    return parser


def main(words: Sequence[str]) -> None:
    """Print the path of the page."""
    asked = parser().parse_args(words)
    from moejax.report.record import read

    record = read(asked.run)
    from moejax.report.drawing import draw  # a second of imports, after all that may be wrong

    print(draw(asked.run, record))
    for sentence in record.remarks:
        print(f"note: {sentence}", file=sys.stderr)
