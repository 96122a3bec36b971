"""The values that an option takes in a sweep, out of one word of the command line."""

import json
import re
from typing import Any

from moejax.errors import abridged
from moejax.json_text import read_json

_RANGE = re.compile(r"(-?\d{1,20})\.\.(-?\d{1,20})")
MOST = 1000  # runs of a sweep


def values_of(word: str) -> list[str]:
    """Each value as a word: `4,8,16` are three, `0..2` three, `["a,b", "c"]` two, `{…}` is one.

    ValueError, with the second half of a sentence about the word, if it makes no sense.
    """
    if word.startswith("["):
        found = _json(word)
    elif word.startswith("{"):
        found = [word]
    elif ends := _RANGE.fullmatch(word):
        found = _range(*map(int, ends.groups()))
    else:
        found = word.split(",")
    if not found or "" in found:
        raise ValueError("which has an empty value; write values as 4,8,16 or 0..2 or a JSON list")
    if twice := next((value for i, value in enumerate(found) if value in found[:i]), None):
        raise ValueError(f"which has {abridged(twice)} twice; leave one out")
    return found


def _range(first: int, last: int) -> list[str]:
    if not first <= last < first + MOST:
        raise ValueError(f"which is no range; write the lower end first, and at most {MOST:,} values")
    return [str(number) for number in range(first, last + 1)]


def _json(word: str) -> list[str]:
    try:
        found = read_json(word)
    except ValueError:
        raise ValueError("which begins as a JSON list and is none; write values as [4, 8] or 4,8") from None
    return [_word(value) for value in found]


def _word(value: Any) -> str:
    """As a command line says it."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
