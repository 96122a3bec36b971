"""Writing files so that whoever looks, or whatever happens, finds the old one or the new one, whole."""

import contextlib
import errno
import io
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moejax.errors import UserError, cannot_write, path_problem

LOCK = ".lock"
_MOMENT = 1.0  # seconds
_unfinished: set[Path] = set()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write beside `path`, have it on the disk, then put it in its place, and have that on the disk; text as UTF-8.

    Behind a link the file itself is replaced. What is no file, such as a pipe, is written to.

    Raises:
      OSError: it cannot be written, with `path` as its file; what was there before stays.
    """
    content = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(content)
        else:
            file = Path(os.path.realpath(path))
            try:
                _replace(file, content)
            except FileNotFoundError:  # swept away by another process, unless the folder is gone
                _replace(file, content)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _replace(path: Path, content: bytes) -> None:
    name = os.fsdecode(os.fsencode(path.name)[:200])  # of the 255 bytes that file systems take
    partial = path.with_name(f".{name}.{secrets.token_hex(4)}.partial")  # another process has its own
    _unfinished.add(partial)
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)
        _unfinished.discard(partial)


def sync(folder: Path) -> None:
    """Have the names of what is in a folder on the disk: the system keeps them apart from what the files hold.

    Nothing happens where a folder cannot be opened, as on Windows, or its file system knows no such thing.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, unless it is there, and have its name on the disk."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


@contextlib.contextmanager
def one_writer(folder: Path, then: str) -> Iterator[None]:
    """Inside, this process alone writes in a folder.

    UserError if another one does; it says what to do once that is stopped.

    The lock ends with its process, however that ends. One who only looks whether a folder is free has it for a moment,
    so it is waited for that long.
    """
    import filelock  # imported here, since the command line begins without it

    lock = filelock.FileLock(folder / LOCK, timeout=_MOMENT)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(f"Another process is writing {folder}; wait until it ends, or stop it and {then}.") from None
    try:
        yield
    finally:
        lock.release()


def drop_unfinished() -> None:
    """Delete what is half written, before the process ends in the middle of it."""
    for partial in tuple(_unfinished):
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Delete what a process that was killed left half written in a folder."""
    for partial in folder.glob(".*.partial"):
        partial.unlink(missing_ok=True)


def place_for(option: str, text: str, *, folder: bool = False) -> Path:
    """Where an option wants a file or a folder; UserError if none can be written there. For before the work."""
    if problem := path_problem(text):
        raise UserError(f"{option} is {problem}.")
    path = Path(text)
    if obstacle := _obstacle(path, folder):
        code, place = obstacle
        raise cannot_write(option, path, OSError(code, os.strerror(code), str(place)))
    return path


def _obstacle(path: Path, folder: bool) -> tuple[int, Path] | None:
    """Why not, as the system's number, and where."""
    place = path if folder else path.parent
    while folder and not place.exists() and place != place.parent:  # folders are made
        place = place.parent
    if not folder and path.is_dir():
        return errno.EISDIR, path
    if not place.exists():
        return errno.ENOENT, place
    if not place.is_dir():
        return errno.ENOTDIR, place
    is_beside = folder or path.is_file() or not path.exists()  # what is written, before it takes the old one's place
    written = [place] * is_beside + [path] * path.exists()
    return next(((errno.EACCES, p) for p in written if not os.access(p, os.W_OK)), None)


def packed(arrays: Mapping[str, Any]) -> bytes:
    """Arrays as the content of an .npz file."""
    import numpy as np  # imported here, since the command line begins without it

    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()
