"""Find the files of a data set: in a folder of the user's, in the cache, on the mirrors. Knows no data set by name.

Every file is verified wherever it comes from, and whatever is wrong with one is a `UserError`. A source that merely has
nothing to offer raises `UnavailableError`, on which `first_that_works` goes on to the next.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from moejax.data import web
from moejax.data.dataset import Dataset
from moejax.data.verify import File, accept, packed
from moejax.errors import UserError
from moejax.files import sweep, write_whole

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Found:
    """Verified files: `origin` says where they were for people, `values` holds what each decoded to, by name."""

    origin: str
    values: dict[str, Any]


class UnavailableError(UserError):
    """This source has nothing to offer, for this reason: `auto` goes on to the next one.

    Attributes:
      reason: half a sentence, lower case.
      notable: the user should hear of it even though another source served the data.
    """

    def __init__(self, reason: str, fix: str, *, notable: bool = False):
        super().__init__(f"{_capital(reason)}: {fix}.")
        self.reason, self.notable = reason, notable


def first_that_works(name: str, sources: Mapping[str, Callable[[], T]]) -> tuple[str, T, tuple[str, ...]]:
    """The first source that does not raise UnavailableError: its key, what it gave, and notes about those before it.

    Raises:
      UserError: all are unavailable (the sentences list each with its reason), or one of them found something wrong.
    """
    failed: dict[str, UnavailableError] = {}
    for key, source in sources.items():
        try:
            value = source()
        except UnavailableError as error:
            failed[key] = error
        else:
            return key, value, tuple(f"{_capital(error.reason)}." for error in failed.values() if error.notable)
    if len(failed) == 1:
        raise next(iter(failed.values()))
    raise UserError(
        f"No source could serve the data set {name!r}; tried, in order:",
        *(f"  {key}: {error.reason}." for key, error in failed.items()),
        "Put the files in a folder and pass it as --data.dir, or run once with a network (what it fetches is kept).",
    )


def from_source(
    name: str, sources: Mapping[str, Callable[[], Dataset]], auto: Sequence[str], source: str, directory: str | None
) -> Dataset:
    """The data set from the source that is named. "auto": from the user's folder, else the first of `auto` that works.

    Raises:
      UserError: as `first_that_works`, or for a source that is none of these.
    """
    if source == "auto":
        chosen = ["dir"] if named_folder(directory) else auto
    elif source in sources:
        chosen = [source]
    else:
        raise UserError(f"--data.source={source} does not offer {name}: choose one of auto, {', '.join(sources)}.")
    used, dataset, notes = first_that_works(name, {key: sources[key] for key in chosen})
    return dataclasses.replace(dataset, source=used, notes=notes + dataset.notes)


def named_folder(directory: str | None, field: str = "--data.dir") -> tuple[str, str] | None:
    """The folder the user named and what named it: (field, …), ("MOEJAX_DATA_DIR", …), or None."""
    if directory is not None:
        return field, directory
    if variable := os.environ.get("MOEJAX_DATA_DIR"):
        return "MOEJAX_DATA_DIR", variable
    return None


def user_folder(
    name: str,
    files: Sequence[File],
    directory: str | None,
    other: Sequence[File] = (),
    field: str = "--data.dir",
) -> Found:
    """The files in the folder that the user named by `field`: in its `name`/, or right there.

    `other` is a second layout of them.

    Raises:
      UserError: no folder is named, or anything is missing or wrong. It is never UnavailableError: a folder that the
        user named is not passed over.
    """
    named = named_folder(directory, field)
    if named is None:
        raise UserError(f"--data.source=dir needs a folder that holds {name}/: name it with --data.dir.")
    field, directory = named
    root = Path(os.path.expanduser(directory))
    if not os.path.isdir(root):
        raise UserError(f"{field}={directory} is not a folder: name one that holds {name}/.")
    folder = root / name if os.path.isdir(root / name) else root
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"{field}={directory}: {folder} cannot be read (permission denied): change its permissions.")
    there = {layout: sum(_locate(folder, file) is not None for file in layout) for layout in map(tuple, (files, other))}
    if not any(there.values()):
        siblings = f".gz and its {len(files) - 1} siblings" if len(files) > 1 else ""
        raise UserError(
            f"{field}={directory} has no folder {name}/ with the files of {name}: put {files[0].name}{siblings} there."
        )
    values = {}
    # The more complete layout, so that an error is about the one that the user means.
    for file in max(there, key=lambda layout: there[layout] / max(len(layout), 1)):
        path = _locate(folder, file)
        if path is None:
            raise UserError(f"{field}={directory} lacks {file.name}.gz (or {file.name}) in {folder}: put it there.")
        values[file.name] = accept(read(path, file.limit), file, str(path))
    return Found(origin=str(folder), values=values)


def cache_folder(name: str) -> Path:
    """Where fetched files are kept: under MOEJAX_CACHE_DIR, else XDG_CACHE_HOME/moejax, else ~/.cache/moejax."""
    if chosen := os.environ.get("MOEJAX_CACHE_DIR"):
        return Path(os.path.expanduser(chosen)) / name
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "moejax" / name


def cached(name: str, files: Sequence[File], *, remove: bool = True) -> Found:
    """The files in the cache. One that is damaged is removed, so that it is fetched again, but for `remove` False.

    Raises:
      UnavailableError: a file is missing or was damaged.
    """
    folder = cache_folder(name)
    values, problems, damaged = {}, [], False
    for file in files:  # to the end, so that no damaged file stays beside those fetched next
        path = _locate(folder, file)
        if path is None:
            problems.append(f"the cache {folder} has no {file.name}")
            continue
        try:
            values[file.name] = accept(read(path, file.limit), file, str(path))
        except UserError as error:
            problems.append(f"{_remove(path)}: {problem(error)}" if remove else problem(error))
            damaged = True
    if problems:
        raise UnavailableError("; ".join(problems), "pass --data.source=auto to fetch what is missing", notable=damaged)
    return Found(origin=str(folder), values=values)


def mirrored(name: str, files: Sequence[File], mirrors: Sequence[str | Mapping[str, str]]) -> Found:
    """All files from the first mirror that serves them as published; they go into the cache.

    A mirror is a URL that ends in /, to which file names with .gz are appended, or a URL for each file by its name.

    Raises:
      UnavailableError: no mirror does.
    """
    reasons = []
    for urls in mirrors:
        if isinstance(urls, str):
            urls = {file.name: f"{urls}{file.name}.gz" for file in files}
        mirror = urls[files[0].name].rpartition("/")[0] + "/"
        try:
            web.probe(urls[files[0].name])
            values = {}
            for file in files:
                url = urls[file.name]
                raw = web.fetch(url, file.limit)
                values[file.name] = accept(raw, file, url)
                keep(name, f"{file.name}.gz" if packed(raw) else file.name, raw)
            return Found(origin=mirror, values=values)
        except UserError as error:
            reasons.append(f"{mirror}: {problem(error)}")
        except OSError as error:
            reasons.append(f"{mirror}: {error}")
    raise UnavailableError(
        f"no mirror served the files ({'; '.join(reasons)})",
        "check the network, or put the files in a folder and pass it as --data.dir",
    )


def keep(name: str, file_name: str, raw: bytes) -> None:
    """Puts a verified file into the cache, whole or not at all.

    A cache that cannot be written costs only the next run's time, so it is no error.
    """
    path = cache_folder(name) / file_name
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)  # what a process that was killed has left; one that writes now begins again
        write_whole(path, raw)


def _locate(folder: Path, file: File) -> Path | None:
    """The file in this folder, packed or not; None if neither is there."""
    candidates = [folder / f"{name}{ending}" for name in (file.name, *file.aliases) for ending in (".gz", "")]
    there = [path for path in candidates if os.path.lexists(path)]
    return next((path for path in there if path.is_file()), there[0] if there else None)


def read(path: Path, limit: int) -> bytes:
    """The whole file, unless it is longer than `limit` bytes."""
    try:
        if path.is_dir() or (path.exists() and not path.is_file()):
            kind = "folder" if path.is_dir() else "device or pipe"
            raise UserError(f"{path} is a {kind}, expected a file: put the published file in its place.")
        if (size := path.stat().st_size) > limit:
            raise UserError(f"{path} is too long ({size} bytes, expected {limit} at most): download it again.")
        return path.read_bytes()
    except PermissionError as error:
        raise UserError(f"{path} cannot be read (permission denied): change its permissions.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): put the published file in its place.") from error


def _remove(path: Path) -> str:
    """Removes a file of the cache and says how that went."""
    try:
        path.unlink()
    except OSError as error:
        return f"a damaged file in the cache could not be removed ({error.strerror})"
    return "a damaged file in the cache was removed"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def problem(error: UserError) -> str:
    """A sentence "problem: fix." without its fix, for messages where the fix is another one."""
    return str(error).rpartition(": ")[0]
