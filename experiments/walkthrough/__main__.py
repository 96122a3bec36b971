"""python -m experiments.walkthrough: execute the walk-through, and write it as a notebook with its outputs.

--check executes it and keeps nothing. Needs the extra `docs`: pip install -e '.[docs]'
"""

import argparse
from pathlib import Path
from typing import Any

from moejax import entry
from moejax.errors import require_libraries

HERE = Path(__file__).parent
NOTEBOOK = HERE / "walkthrough.ipynb"


def notebook() -> Any:
    """The script's cells, not executed yet."""
    import jupytext

    made = jupytext.read(HERE / "walkthrough.py", fmt="py:light")
    made.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for number, cell in enumerate(made.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
    return made


def main() -> None:
    """Execute it; an assertion that fails ends it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="keep nothing")
    asked = parser.parse_args()
    require_libraries("docs", "jupytext", "nbclient", "ipykernel")
    import nbformat
    from nbclient import NotebookClient

    executed = notebook()
    NotebookClient(executed, timeout=600, resources={"metadata": {"path": str(HERE)}}).execute()
    for cell in executed.cells:
        cell.metadata = {}  # when it was executed
    if not asked.check:
        nbformat.write(executed, NOTEBOOK)


if __name__ == "__main__":
    entry.end(entry.run(main))
