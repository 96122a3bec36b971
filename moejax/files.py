"""Writing files so that whoever looks, or whatever happens, finds the old one or the new one, whole."""

import io
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any


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


def packed(arrays: Mapping[str, Any]) -> bytes:
    """Arrays as the content of an .npz file."""
    import numpy as np  # imported here, since the command line begins without it

    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()
