"""Labels as one's own data have them, words or numbers with gaps, as 0 … classes - 1 and the classes' names."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from moejax.errors import UserError, abridged


def numbered(columns: Mapping[str, Any], where: str) -> tuple[dict[str, Int[ndarray, " n"]], tuple[str, ...]]:
    """The labels of each split as int32, and the names of the classes: the values that they had, in order.

    Whole numbers (also as floats, bool or bytes) are in order of their value, and so are words that are all numbers;
    other words in that of their letters. `where`: the file, for messages.

    Raises:
      UserError: they are neither words nor whole numbers, not of one kind, or not one an example.
    """
    read = {split: _column(_as_array(column), f"{where} ({split})") for split, column in columns.items()}
    if len({column.dtype.kind for column in read.values()}) > 1:
        raise UserError(f"{where} has words for labels in one split and numbers in another: write them alike in all.")
    values = _in_order({value for column in read.values() for value in column.tolist()})
    place = {value: number for number, value in enumerate(values)}
    labels = {s: np.array([place[value] for value in column.tolist()], np.int32) for s, column in read.items()}
    return labels, tuple(map(str, values))


def of_words(words: Sequence[Any], where: str) -> Sequence[Any]:
    """A table's column of labels as it is; UserError where it has numbers alone, of which one is not whole."""
    numbers = [number for number in map(_number, words) if number is not None]
    wrong = [row for row, number in enumerate(numbers) if number % 1]
    if len(numbers) == len(words) and wrong:
        raise _no_class(words[wrong[0]], wrong[0], where)
    return words


def _no_class(value: Any, row: int, where: str) -> UserError:
    return UserError(
        f"{where} has the label {value} in row {row + 1}, expected words or whole numbers: these networks tell classes"
        " from each other."
    )


def _number(word: Any) -> float | None:
    """The finite number that a word says; None for what is none."""
    try:
        number = float(word)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _in_order(values: Iterable[Any]) -> list[Any]:
    """Numbers, and words that are all numbers, by their value; other words by their letters."""
    values = list(values)
    of_words = all(isinstance(value, str) and _number(value) is not None for value in values)
    return sorted(values, key=(lambda value: (_number(value), value)) if of_words else None)


def _as_array(column: Any) -> ndarray:
    """A column as NumPy has it; lists of several lengths each as one value."""
    try:
        return np.asarray(column)
    except ValueError:
        array = np.empty(len(column), object)
        array[:] = column
        return array


def _column(column: ndarray, where: str) -> ndarray:
    """One split's labels, as int64 or as text."""
    if column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    if column.ndim != 1:
        fix = ": take the column of the largest number, y.argmax(1)" if column.ndim == 2 else ""
        raise UserError(f"{where} has labels of shape {column.shape}, expected one an example{fix}.")
    if column.dtype.kind == "S":
        column = np.char.decode(column, "utf-8", "replace")
    if column.dtype.kind == "O":
        values = column.tolist()
        if None in values:
            raise UserError(f"{where} has no label in row {values.index(None) + 1}: give it one, or leave the row out.")
        if wrong := [value for value in values if not isinstance(value, str)]:
            raise UserError(f"{where} has the label {abridged(repr(wrong[0]))} among words: give each example a word.")
        column = column.astype(str) if column.size else np.zeros(0, "U1")
    if column.dtype.kind == "U":
        if (empty := np.flatnonzero(np.char.strip(column) == "")).size:
            raise UserError(f"{where} has no label in row {empty[0] + 1}: give it one, or leave the row out.")
        if broken := next(filter(re.compile("[\ud800-\udfff]").search, column.tolist()), None):
            raise UserError(f"{where} has the label {abridged(repr(broken))}, which is no text in UTF-8: rename it.")
        return column
    if column.dtype.kind not in "biuf":
        raise UserError(f"{where} has labels of type {column.dtype}, expected words or whole numbers.")
    if column.dtype.kind == "f" and (wrong := np.flatnonzero(column != np.rint(column))).size:
        raise _no_class(column[wrong[0]], int(wrong[0]), where)
    if column.size and np.abs(column.astype(np.float64)).max() >= 2**53:
        raise UserError(f"{where} has labels beyond 2^53, expected words or small whole numbers.")
    return column.astype(np.int64)
