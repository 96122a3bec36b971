"""What a library raises on a bad file, as one sentence of ours."""

import contextlib
import os
from collections.abc import Callable, Iterator

from moejax.errors import UserError


@contextlib.contextmanager
def said_as(sentence: Callable[[str], str]) -> Iterator[None]:
    """Whatever is raised within becomes the UserError `sentence(problem)`.

    Compiled libraries panic on some files, which is no `Exception`.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        lines = str(error).strip().splitlines()
        raise UserError(sentence(lines[0] if lines else type(error).__name__)) from error


@contextlib.contextmanager
def quiet_panics() -> Iterator[None]:
    """Nothing is written to the process's standard error within: a compiled library dumps its stack there first."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
