"""Write the results' tables into README:  python -m experiments.tables

Each stands behind a line `<!-- FILE.md -->` that names it; a test holds the two together.
"""

import re
import sys
from pathlib import Path

from moejax import entry
from moejax.files import write_whole

ROOT = Path(__file__).parent.parent
TABLE = re.compile(r"^<!-- (\S+\.md) -->\n(?:\|.*\n)*", re.MULTILINE)


def with_tables(text: str) -> str:
    """The text with each table as its file has it."""
    return TABLE.sub(lambda found: f"<!-- {found[1]} -->\n{(ROOT / found[1]).read_text(encoding='utf-8')}", text)


def main() -> None:
    """Write them anew."""
    readme = ROOT / "README.md"
    write_whole(readme, with_tables(readme.read_text(encoding="utf-8")))


if __name__ == "__main__":
    sys.exit(entry.run(main))
