"""`moejax VERB …`, the same as `python -m moejax VERB …`."""

import sys
from collections.abc import Sequence
from typing import NoReturn

from moejax import entry, verbs


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return entry.run(lambda: verbs.main(sys.argv[1:] if words is None else words))


def command() -> NoReturn:
    """The program `moejax`."""
    entry.end(main())


if __name__ == "__main__":
    command()
