"""Where data are on this machine: the folder that the user names, the cache, and what lies in them."""

import os
from pathlib import Path
from typing import Any

from moejax.data import DATASETS, Dataset, load
from moejax.data.find import cache_folder, named_folder
from moejax.errors import UserError, did_you_mean
from moejax.options import meaning, options_of


def places() -> dict[str, dict[str, Any]]:
    """The folder of MOEJAX_DATA_DIR, if it is set, and the cache: `path`, and `bytes` of each folder in it by name."""
    named = named_folder(None)
    found = {"MOEJAX_DATA_DIR": Path(os.path.expanduser(named[1]))} if named else {}
    return {name: {"path": str(path), "bytes": _sizes(path)} for name, path in (found | {"cache": _cache()}).items()}


def fetched(name: str) -> Dataset:
    """The data set, from where a run would take it; what comes through a network is in the cache then.

    Raises:
      UserError: there is no such data set, nothing of it can be fetched, or no source works.
    """
    if name not in DATASETS:
        near = did_you_mean(name, DATASETS)
        raise UserError(f"There is no data set {name!r}; " + (f"did you mean {near}?" if near else _names()))
    if name not in fetchable():
        raise UserError(f"Nothing of {name} can be fetched ({meaning(DATASETS[name])}); {_names()}")
    return load(name)


def fetchable() -> list[str]:
    """The data sets of which something can be fetched."""
    return [name for name, entry in DATASETS.items() if "source" in options_of(entry)]


def _names() -> str:
    return f"choose one of {', '.join(fetchable())}."


def _cache() -> Path:
    return cache_folder("").absolute()


def _sizes(folder: Path) -> dict[str, int]:
    """Of each folder in a folder; of the folder itself none that cannot be read."""
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return {}
    return {path.name: sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) for path in inside}
