"""What a part of the torture found: a line of the table."""

from collections.abc import Iterable
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


def figure(what: str, cases: int, wrong: Iterable[str], found: str, *, least: int = 1) -> Figure:
    """The figure of so many cases, which says `found` if none is wrong; those that are it prints.

    Where fewer than `least` were tried, that is not as it has to be.
    """
    wrong = list(wrong)
    for one in wrong[:20]:
        print(f"  {what}: {one[:1200]}", flush=True)
    found = found if cases >= least else f"only {cases} tried, of {least} at least"
    return Figure(what, cases, f"{len(wrong)} wrong" if wrong else found, not wrong and cases >= least)
