"""Write the results' tables into README:  python experiments/readme.py

Each stands behind a line `<!-- FILE.md -->` that names it; a test holds the two together.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TABLE = re.compile(r"^<!-- (\S+\.md) -->\n(?:\|.*\n)*", re.MULTILINE)


def with_tables(text: str) -> str:
    """The text with each table as its file has it."""
    return TABLE.sub(lambda found: f"<!-- {found[1]} -->\n{(ROOT / found[1]).read_text()}", text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_tables(readme.read_text()))
