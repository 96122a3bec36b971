"""Writing files so that whoever looks, or whatever happens, finds the old one or the new one, whole."""

import os
import secrets
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write beside `path`, have it on the disk, then put it in its place; text as UTF-8.

    Raises:
      OSError: it cannot be written; what was there before stays.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")  # another process has its own
    try:
        with open(partial, "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def path_problem(path: str | None) -> str:
    """Why no file system has such a path; empty for one that may be there."""
    if path is None:
        return ""
    if not path or "\0" in path:
        return f"{abridged(repr(path))}, which can be no path"
    parts = [part.encode(errors="surrogatepass") for part in Path(path).parts]
    if sum(map(len, parts)) > 4000 or any(len(part) > 255 for part in parts):
        return f"{abridged(repr(path))}; a path has at most 4,000 bytes, and each of its names 255"
    return ""


def abridged(text: str) -> str:
    """The beginning of a text that is long."""
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"
