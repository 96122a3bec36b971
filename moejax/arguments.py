"""What arguments must satisfy: one sentence for each that does not make sense, with its name, its value and what to do.

For what functions are given as they run; what constructors may be told is declared there (`moejax.options`).
"""

import math
from numbers import Integral, Real
from typing import Any


def refuse(problems: list[str]) -> None:
    """Raise the first, if there is one, as a ValueError."""
    if problems:
        raise ValueError(problems[0])


def whole(name: str, value: Any, least: int = 1, most: int | None = None) -> list[str]:
    """What is wrong with a whole number."""
    if not _is_whole(value):
        return [f"{name} is {value!r}; it must be a whole number."]
    if most is not None and not least <= value <= most:
        return [f"{name} is {value}; it must be from {least} to {most}."]
    return [] if value >= least else [f"{name} is {value}; it must be at least {least}."]


def number(
    name: str, value: Any, *, above: float | None = None, least: float | None = None, below: float | None = None
) -> list[str]:
    """What is wrong with a finite number."""
    if not _is_real(value) or not math.isfinite(value):
        return [f"{name} is {value!r}; it must be a finite number."]
    bounds = []
    if above is not None:
        bounds.append((value > above, f"above {above:g}"))
    if least is not None:
        bounds.append((value >= least, f"at least {least:g}"))
    if below is not None:
        bounds.append((value < below, f"below {below:g}"))
    if all(kept for kept, _ in bounds):
        return []
    return [f"{name} is {value}; it must be {' and '.join(words for _, words in bounds)}."]


def truth(name: str, value: Any) -> list[str]:
    """What is wrong with a yes or no."""
    return [] if isinstance(value, bool) else [f"{name} is {value!r}; it must be True or False."]


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
