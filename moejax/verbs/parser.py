"""How a verb reads its words: argparse, whose complaints are sentences as everywhere."""

import argparse
import re
from pathlib import Path
from typing import NoReturn

from moejax.errors import UserError, abridged, did_you_mean
from moejax.files import place_for


class Parser(argparse.ArgumentParser):
    """A verb's words. `doc`: the docstring of its module, which is its help: what it does, and examples."""

    def __init__(self, verb: str, doc: str | None):
        super().__init__(
            prog=f"moejax {verb}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def add_run(self) -> None:
        """The folder of a run."""
        self.add_argument("run", type=Path, metavar="RUN", help="a folder that moejax run wrote")

    def add_checkpoint(self) -> None:
        """Which of its checkpoints."""
        self.add_argument(
            "--checkpoint", metavar="WHICH", help="best, last or a step (default: the one the run is tested with)"
        )

    def error(self, message: str) -> NoReturn:
        """UserError with what is wrong with the words."""
        message = re.sub(r"\S{81,}", lambda word: abridged(word[0]), message)
        for kind, what in (("int", "whole number"), ("float", "number")):
            message = re.sub(rf"^argument (\S+): invalid {kind} value: (.+)", rf"\1 is \2, which is no {what}", message)
        wrong = re.search(r"(?:unrecognized arguments: |invalid choice: )'?([^\s']+)", message)
        there = [*self._option_string_actions, *(choice for action in self._actions for choice in action.choices or ())]
        near = did_you_mean(wrong[1], there) if wrong else None
        raise UserError(f"{self.prog}: {message}; " + (f"did you mean {near}?" if near else f"see  {self.prog} --help"))


def place_of(option: str, text: str | None, *, folder: bool = False) -> Path | None:
    """Where an option, if it is given, wants a file or a folder; UserError if none can be written there, or a run needs
    what is there.
    """
    if text is None:
        return None
    from moejax.runs.verify import check_not_own  # imported here, since it reads configurations

    path = place_for(option, text, folder=folder)
    check_not_own(option, path)
    return path
