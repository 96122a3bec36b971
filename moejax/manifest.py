"""A manifest: the sha256 of each file of a folder, by which they are known to be what was written.

A finished run has one of its files, each checkpoint has its own; whoever reads one of them reads it by `content`.

It is written after the files, which are on the disk by then with their names, and holds a sha256 of itself.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from moejax.errors import UserError
from moejax.files import sync, write_whole
from moejax.json_text import read_json

NAME = "sha256.json"
CHANGED = "is not what was written"


def write(folder: Path, files: Iterable[Path] | None = None, **facts: Any) -> None:
    """Record these files of the folder, by default all of them, and the facts."""
    manifest = {**facts, "files": digests(folder, files, flushed=True)}
    above = {folder / parent for name in manifest["files"] for parent in Path(name).parents}
    for inside in sorted(above - {folder}):
        sync(inside)
    write_whole(folder / NAME, json.dumps(manifest | {"sha256": seal(manifest)}, indent=1))


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest as it was written, or None."""
    try:
        manifest = read_json((folder / NAME).read_text(encoding="utf-8"))
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


def content(file: Path) -> tuple[bytes | None, str]:
    """What is in a file of a run's or a checkpoint's folder, and what is wrong with it: the end of a sentence, or "".

    No content, and nothing wrong, if there is no such file. A folder without a readable manifest, such as that of a run
    that is not finished, has nothing to hold its files to.
    """
    recorded = (read(file.parent) or {"files": {}})["files"].get(file.name)
    try:
        found = file.read_bytes()
    except FileNotFoundError:
        return None, "is missing" if recorded else ""
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"
    if recorded not in (None, hashlib.sha256(found).hexdigest()):
        return None, CHANGED
    return found, ""


def object_in(file: Path) -> tuple[dict[str, Any], str]:
    """The JSON object in such a file, and what is wrong with it; an empty one if there is none to be had."""
    found, problem = content(file)
    try:
        value = {} if found is None else read_json(found.decode("utf-8"))
    except ValueError:
        value = None
    return (value, problem) if isinstance(value, dict) else ({}, CHANGED)


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
