"""`python -m moejax.report RUN_DIR`: draw a run's report anew from its files."""

import sys
from pathlib import Path

from moejax import entry
from moejax.report import render


def main(arguments: list[str]) -> int:
    """Print the path of the page and return 0, or one sentence and return 2."""
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print(
            "Usage: python -m moejax.report RUN_DIR, where RUN_DIR is a folder that moejax.run wrote.", file=sys.stderr
        )
        return 0 if arguments in (["-h"], ["--help"]) else 2
    return entry.run(lambda: print(render(Path(arguments[0]))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
