"""What a benchmark's options take: values of the library's kinds, each refused in a sentence where it is none."""

import argparse
from collections.abc import Callable
from typing import Any

from pydantic.fields import FieldInfo

from moejax.errors import abridged
from moejax.options import expected, from_text, refusals


def word(kind: Any) -> Callable[[str], Any]:
    """What reads a word of this kind, such as `Positive`, for argparse."""
    field = FieldInfo.from_annotation(kind)

    def value(text: str) -> Any:
        found = from_text(field, text)
        if refusals({"": field}, {"": found}):
            raise argparse.ArgumentTypeError(f"{abridged(repr(text))} must be {expected(field, found)}")
        return found

    return value
