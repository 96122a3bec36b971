"""The sources of the Python that runs, its standard library without its tests: text that is on every machine.

Which text it is depends on Python's version; a run records its digest.
"""

import platform
import sysconfig
from pathlib import Path as File

from moejax.data import text
from moejax.data.dataset import Dataset, Validation
from moejax.errors import UserError

_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_TABLES = {"encodings", "pydoc_data"}  # written by programs, and nearly the same as each other
_MADE_HERE = "_sysconfigdata", "config-"  # by the build: they name its folders
_FEWEST = 300  # files


def load(
    held_out: text.HeldOut = 0.05,
    length: text.Length = 128,
    vocabulary: text.Pieces = None,
    validation: Validation = 5000,
    seed: int = 0,
) -> Dataset:
    """Loads the sources; arguments, examples and errors as of `moejax.data.text.load`.

    Raises:
      UserError: this Python came without its sources.
    """
    root = File(sysconfig.get_path("stdlib"))
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py") if path.is_file())
    chosen = [name for name in names if not _left_out(name.split("/"))]
    if len(chosen) < _FEWEST:
        raise UserError(
            f"This Python has {len(chosen)} sources of its library in {root}, expected {_FEWEST} at least: name a"
            " folder of text by --data.name text --data.dir."
        )
    return text.dataset_of(
        "python",
        {name: text.read(root / name) for name in chosen},
        source="installed",
        origin=f"the library of Python {platform.python_version()}",
        held_out=held_out,
        length=length,
        vocabulary=vocabulary,
        validate=validation > 0,
    )


def _left_out(parts: list[str]) -> bool:
    return not (_LEFT_OUT | _TABLES).isdisjoint(parts[:-1]) or any(part.startswith(_MADE_HERE) for part in parts)
