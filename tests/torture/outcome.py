"""What becomes of reading a file: it was read, refused in a sentence, or something escaped."""

import contextlib
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from moejax.errors import UserError

SECONDS = 30  # that a file may take

Read = Callable[[Path], Any]


class TooLongError(Exception):
    """A file was not refused in time."""


def tried(read: Read, folder: Path) -> tuple[str, Any]:
    """`read` and what was read, `sentence`, or what escaped: an exception, or words to stderr."""
    with _stderr() as printed:
        outcome = _read_in_time(read, folder)
    return (f"words to stderr: {printed[0]}", None) if printed else outcome


def _read_in_time(read: Read, folder: Path) -> tuple[str, Any]:
    def late(*_: object) -> None:
        raise TooLongError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        return "read", read(folder)
    except UserError as error:
        return ("sentence", None) if all(error.sentences) else ("an empty sentence", None)
    except BaseException:  # whatever escapes is what is looked for
        return traceback.format_exc(limit=-4), None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _stderr() -> Iterator[list[str]]:
    """What is printed there within, compiled libraries' words and warnings too."""
    printed: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file, warnings.catch_warnings(record=True, action="always") as warned:
        os.dup2(file.fileno(), 2)
        try:
            yield printed
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            words = [*file.read().decode(errors="replace").splitlines(), *(str(one.message) for one in warned)]
            printed += filter(None, words)
