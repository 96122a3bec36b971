"""Put the results' tables into the READMEs:  python -m experiments readmes

A table stands behind a line `<!-- FILE.md -->`, which names its file as seen from the README. Studies and benchmarks
put theirs in when they have measured something; a test holds the two together.
"""

import re
from pathlib import Path

import filelock

from moejax.files import write_whole

NO_BREAK = "\N{NO-BREAK SPACE}"
# A figure, which stays in one line whatever the width of its column.
FIGURE = re.compile(r"[\d.]+(?: ± [\d.]+)?(?: (?:%|s|min)(?!\w))?(?:, \d+)*")
TABLE = re.compile(r"^<!-- (\S+\.md) -->\n(?:\|.*\n)*", re.MULTILINE)


def readmes(root: Path) -> list[Path]:
    """All of the project at `root`, and the pages on adding a part."""
    rooms = (root / name for name in ("moejax", "experiments", "benchmarks", "tests"))
    files = (file for room in rooms for pattern in ("README.md", "adding/*.md") for file in sorted(room.rglob(pattern)))
    return [*root.glob("README.md"), *dict.fromkeys(files)]


def with_tables(text: str, folder: Path) -> str:
    """The text of a README in that folder, with each table as its file has it, but for spaces inside a figure."""

    def table(found: re.Match) -> str:
        rows = (folder / found[1]).read_text(encoding="utf-8")
        return f"<!-- {found[1]} -->\n{FIGURE.sub(lambda figure: figure[0].replace(' ', NO_BREAK), rows)}"

    return TABLE.sub(table, text)


def write(root: Path) -> None:
    """Write those anew whose tables have changed; studies that end together do so one after the other."""
    (root / "runs").mkdir(exist_ok=True)
    with filelock.FileLock(root / "runs" / ".readmes.lock"):
        for file in readmes(root):
            text = file.read_text(encoding="utf-8")
            if (new := with_tables(text, file.parent)) != text:
                write_whole(file, new)
