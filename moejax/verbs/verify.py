"""`moejax verify RUN`: compare each checkpoint and file of a run with what was written.

moejax verify runs/mnist_soft-20260101-120000
moejax verify runs/mnist_soft-20260101-120000 --json

Exit code 1: something is damaged or missing.
"""

import json
from collections.abc import Sequence

from moejax.verbs.parser import Parser


def parser() -> Parser:
    """A run's folder."""
    parser = Parser("verify", __doc__)
    parser.add_run()
    parser.add_argument("--json", action="store_true", help="a list of objects with name, state and what is said")
    return parser


def main(words: Sequence[str]) -> int:
    """Print a line a checkpoint and file; 1 if one is damaged or missing."""
    asked = parser().parse_args(words)
    from moejax.runs.verify import verify

    found = verify(asked.run)
    if asked.json:
        print(json.dumps([one._asdict() for one in found], indent=1))
    else:
        names, states = (max(map(len, column)) for column in list(zip(*found, strict=True))[:2])
        print("\n".join(f"{one.state:<{states}}  {one.name:<{names}}  {one.said}".rstrip() for one in found))
    return int(any(one.wrong for one in found))
