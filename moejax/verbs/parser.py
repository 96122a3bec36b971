"""How a verb reads its words: argparse, whose complaints are sentences as everywhere."""

import argparse
from typing import NoReturn

from moejax.errors import UserError


class Parser(argparse.ArgumentParser):
    """A verb's words. `doc`: the docstring of its module, which is its help: what it does, and examples."""

    def __init__(self, verb: str, doc: str | None):
        super().__init__(
            prog=f"moejax {verb}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """UserError with what is wrong with the words."""
        raise UserError(f"{self.prog}: {message}; see  {self.prog} --help")
