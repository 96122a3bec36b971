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
