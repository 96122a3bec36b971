"""How a verb reads its words: argparse, whose complaints are sentences as everywhere."""

import argparse
from pathlib import Path
from typing import NoReturn

from moejax.errors import UserError, path_problem


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
        raise UserError(f"{self.prog}: {message}; see  {self.prog} --help")


def path_of(option: str, text: str | None) -> Path | None:
    """The path that an option gives, if it is given; UserError for what can be none."""
    if problem := path_problem(text):
        raise UserError(f"{option} is {problem}.")
    return None if text is None else Path(text)
