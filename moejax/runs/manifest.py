"""A manifest: the sha256 of each file of a folder, by which they are known to be what was written.

It is written after the files, each of which is on the disk by then, and holds a sha256 of itself.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from moejax.errors import UserError
from moejax.files import write_whole

NAME = "sha256.json"


def write(folder: Path, files: Iterable[Path] | None = None, **facts: Any) -> None:
    """Record these files of the folder, by default all of them, and the facts."""
    manifest = {**facts, "files": digests(folder, files, flushed=True)}
    write_whole(folder / NAME, json.dumps(manifest | {"sha256": seal(manifest)}, indent=1))


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest as it was written, or None."""
    try:
        manifest = json.loads((folder / NAME).read_text(encoding="utf-8"))
        mark = manifest.pop("sha256")
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return None
    return manifest if mark == seal(manifest) else None


def digests(folder: Path, files: Iterable[Path] | None = None, *, flushed: bool = False) -> dict[str, str]:
    """The sha256 by name of the files, by default of all but the manifest; `flushed`: onto the disk with them."""
    found = {}
    for path in sorted(folder.rglob("*") if files is None else files):
        if path.is_file() and path != folder / NAME:
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
            if flushed:
                flush(path)
    return found


def damages(folder: Path, recorded: Mapping[str, str], actual: Mapping[str, str]) -> list[str]:
    """A sentence for each file that is not as recorded, or that nobody recorded."""
    names = sorted(recorded.keys() | actual.keys())
    wrong = [name for name in names if recorded.get(name) != actual.get(name)]
    return [f"The checkpoint file {folder / name} is not what was written." for name in wrong]


def verify(folder: Path) -> None:
    """UserError unless the folder's files are what was written."""
    manifest = read(folder)
    if manifest is None:
        raise UserError(f"The checkpoint {folder} has no readable {NAME}, so that nothing tells whether it is whole.")
    if found := damages(folder, manifest["files"], digests(folder)):
        raise UserError(found[0])


def seal(manifest: Mapping[str, Any]) -> str:
    """The sha256 of what a manifest says."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def flush(file: Path) -> None:
    """Have it on the disk."""
    with open(file, "rb+") as handle:
        os.fsync(handle.fileno())
