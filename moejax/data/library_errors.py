"""What a library raises on a bad file, as one sentence of ours."""

import contextlib
import os
from collections.abc import Callable, Iterator

from moejax.errors import UserError


@contextlib.contextmanager
def said_as(sentence: Callable[[str], str]) -> Iterator[None]:
    """Whatever is raised within becomes the UserError `sentence(problem)`, unless it is a UserError already.

    Compiled libraries panic on some files, which is no `Exception`.
    """
    try:
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
