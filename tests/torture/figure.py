"""What a part of the torture found: a line of the table."""

from typing import NamedTuple


class Figure(NamedTuple):
    """Attributes:
    what: what was done to which command.
    cases: how many times.
    found: in words and numbers.
    good: whether all was as it has to be.
    """

    what: str
    cases: int
    found: str
    good: bool
