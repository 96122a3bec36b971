"""Which cells of a table of tests run by default: a few that have each option once. `pytest -m slow` has the others."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but_for(cells: Iterable, *few: Any) -> list:
    """The cells, those marked slow that are not among the few; a tuple is the values of several arguments."""

    def seldom(cell: Any) -> Any:
        return pytest.param(*(cell if isinstance(cell, tuple) else (cell,)), marks=pytest.mark.slow)

    return [cell if cell in few else seldom(cell) for cell in cells]
