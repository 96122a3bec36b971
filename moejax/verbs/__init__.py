"""The verbs of the command line: one file each, imported only when it is asked for.

A verb is a module with `main(words)`, which returns an exit code or None, and `parser()`, which says what the words may
be. The first line of its docstring is its line of the table in `moejax --help`.
"""

import importlib
from collections.abc import Sequence
from types import ModuleType

from moejax.errors import UserError, abridged, did_you_mean
from moejax.interrupt import ends_at_once

VERBS = {
    "run": "moejax.run",
    "report": "moejax.verbs.report",
    "presets": "moejax.verbs.presets",
    "predict": "moejax.verbs.predict",
    "generate": "moejax.verbs.generate",
    "data": "moejax.verbs.data",
    "verify": "moejax.verbs.verify",
    "export": "moejax.verbs.export",
    "compare": "moejax.verbs.compare",
    "sweep": "moejax.verbs.sweep",
    "serve": "moejax.verbs.serve",
    "doctor": "moejax.verbs.doctor",
    "completion": "moejax.verbs.completion",
}
HEED_SIGNALS = ("run", "sweep", "serve")  # themselves: they save something first, or end as they should


def main(words: Sequence[str]) -> int:
    """Do what the first word says with the others; returns the exit code. UserError for a verb that is none."""
    verb, *rest = words or ["--help"]
    if verb in ("-h", "--help", "help"):
        print(_help())
        return 0
    if verb == "--version":
        from moejax import __version__

        print(f"moejax {__version__}")
        return 0
    if verb not in VERBS:
        raise UserError(_not_a_verb(verb))
    if verb in HEED_SIGNALS:
        return module(verb).main(rest) or 0
    with ends_at_once():
        return module(verb).main(rest) or 0


def module(verb: str) -> ModuleType:
    """Where a verb is."""
    return importlib.import_module(VERBS[verb])


def meaning(verb: str) -> str:
    """What it does, in one line."""
    return (module(verb).__doc__ or "").partition("\n")[0].partition("`: ")[2]


def _help() -> str:
    width = max(map(len, VERBS))
    lines = (f"  {verb:<{width}}  {meaning(verb)}" for verb in VERBS)
    return "\n".join(["usage: moejax VERB ...     or  python -m moejax VERB ...", "", *lines, "", _MORE])


_MORE = "moejax VERB --help tells what follows a verb; moejax --version the version."


def _not_a_verb(word: str) -> str:
    said = abridged(repr(word))
    if word.startswith("--"):
        return f"{said} comes before a verb; to train, write  moejax run {word} …"
    near = did_you_mean(word, VERBS)
    return f"{said} is no verb; " + (f"did you mean {near}?" if near else f"the verbs are {', '.join(VERBS)}.")
