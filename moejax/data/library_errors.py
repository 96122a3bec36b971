"""What a library raises on a bad file, as one sentence of ours."""

import contextlib
import os
import threading
import warnings
from collections.abc import Callable, Iterator

from moejax.errors import UserError


class _Unwarned:
    """Within, no warning is shown. Several threads may be: the filters, which are the process's, come back at last."""

    def __init__(self) -> None:
        self._lock, self._inside, self._filters = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._filters = warnings.catch_warnings(action="ignore")
                self._filters.__enter__()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._filters.__exit__(None, None, None)


_unwarned = _Unwarned()


@contextlib.contextmanager
def said_as(sentence: Callable[[str], str]) -> Iterator[None]:
    """Whatever is raised within becomes the UserError `sentence(problem)`, unless it is a UserError already.

    Compiled libraries panic on some files, which is no `Exception`. What a library warns of is not shown.
    """
    try:
        with _unwarned:
            yield
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        lines = str(error).strip().splitlines()
        raise UserError(sentence(lines[0] if lines else type(error).__name__)) from error


def importing(package: str) -> contextlib.AbstractContextManager[None]:
    """For the import of a library: some read variables of the environment there, and raise anything at a bad one."""
    return said_as(lambda problem: f"The package {package} cannot be imported ({problem}): mend what that is about.")


@contextlib.contextmanager
def needing(source: str) -> Iterator[None]:
    """What cannot be imported within is a UserError that names the package."""
    try:
        yield
    except ImportError as error:
        problem = f"--data.source={source} needs the package {error.name}: pip install {error.name}."
        raise UserError(problem) from error


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
