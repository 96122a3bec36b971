"""The one exception for what a user can cause: shown as sentences, never as a traceback; and what they are made of."""

import difflib
import importlib.util
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """One or more sentences, each naming the value at fault and the fix; `run` prints them and exits with code 2."""

    def __init__(self, *sentences: str):
        super().__init__(*sentences)
        self.sentences = sentences

    def __str__(self) -> str:
        return "\n".join(self.sentences)


def of_the_system(error: OSError, place: object = None) -> str:
    """A sentence about a full disk, a missing permission, a folder that is gone; of `place`, if it names no file."""
    reason, place = error.strerror or str(error) or type(error).__name__, error.filename or place
    return f"{place}: {reason}." if place else f"{reason}."


def cannot_write(option: str, path: object, error: OSError) -> UserError:
    """That nothing can be written where an option says."""
    return UserError(f"Cannot write to {option} {path}: {of_the_system(error)}")


def require_libraries(extra: str, *names: str) -> None:
    """UserError if a library of an extra of this package is not installed; it is of the same name as what needs it."""
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise UserError(f"{extra} needs {' and '.join(missing)}, not installed here; pip install 'moejax[{extra}]'.")


def path_problem(path: str | None) -> str:
    """Why no file system has such a path; empty for one that may be there."""
    if path is None:
        return ""
    none = f"{abridged(repr(path))}, which can be no path"
    if not path or "\0" in path:
        return none
    try:
        parts = [os.fsencode(part) for part in Path(path).parts]
    except UnicodeEncodeError:  # half a letter, which is no byte that was not understood either
        return none
    if sum(map(len, parts)) > 4000 or any(len(part) > 255 for part in parts):
        return f"{abridged(repr(path))}; a path has at most 4,000 bytes, and each of its names 255"
    return ""


def quoted(path: Path) -> str:
    """A path as a word of a command line that a user can copy."""
    return shlex.quote(str(path))


def printable(path: str) -> str:
    """A path whose bytes that are no UTF-8 are seen as such, for fonts and pages."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def abridged(text: str) -> str:
    """A text in one line; its beginning if it is long."""
    text = re.sub(r"\s*\n\s*", " ", text)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest: by its words, its initials, or its letters."""
    last_of = {option: option.rpartition(".")[2] for option in known}
    section, _, last = name.rpartition(".")
    words = set(last.split("_"))

    def initials(option: str) -> str:
        return "".join(word[:1] for word in option.split("_"))

    ways = (
        difflib.get_close_matches(name, last_of, n=1, cutoff=0.92) if "_" in last else [],  # a letter is wrong
        [option for option in last_of if option.startswith(f"{name}.")],
        [option for option, its_last in last_of.items() if its_last == last],
        [option for option, its_last in last_of.items() if words <= set(its_last.split("_"))],
        [option for option, its_last in last_of.items() if len(last) > 1 and last == initials(its_last)],
        difflib.get_close_matches(name, last_of, n=1),
        [option for option, its_last in last_of.items() if difflib.get_close_matches(last, [its_last])],
    )
    found = next(filter(None, ways), [])
    in_section = (option for option in found if option.rpartition(".")[0] == section)
    return next(in_section, found[0] if found else None)
