"""Sentence pairs in tab-separated files: the columns Quality, #1 ID, #2 ID, #1 String and #2 String.

Quotation marks mean nothing in them: sentences hold unbalanced ones, and a reader that heeds them silently loses rows.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from moejax.data.dataset import Examples, integers
from moejax.errors import UserError

HEADER = ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]
Ids = tuple[str, str]


class Pair(NamedTuple):
    """One row."""

    ids: Ids
    first: str
    second: str
    label: int


def decode(count: int, original: bool, content: bytes, where: str) -> list[Pair]:
    """The rows of one file: `count` of them. An original file begins with a byte-order mark, which is passed over.

    Raises:
      UserError: it is no such table, in one sentence about the file `where`.
    """
    lines = _lines(content, where, "utf-8-sig" if original else "utf-8")
    if not lines or lines[0] != HEADER:
        raise UserError(_wrong_header(lines[0] if lines else [], where))
    pairs = []
    for number, fields in enumerate(lines[1:], start=2):
        if len(fields) != len(HEADER) or fields[0] not in ("0", "1"):
            raise UserError(
                f"{where} has {len(fields)} fields in line {number}, beginning with {fields[0][:20]!r}, expected "
                f"{len(HEADER)}, beginning with 0 or 1: download it again."
            )
        label, id1, id2, first, second = fields
        pairs.append(Pair((id1, id2), first.strip(), second.strip(), int(label)))
    return _checked(pairs, count, "pairs", where)


def decode_ids(count: int, content: bytes, where: str) -> list[Ids]:
    """The ids of `count` pairs: two columns without a header."""
    lines = _lines(content, where, "utf-8")
    for number, fields in enumerate(lines, start=1):
        if len(fields) != 2:
            raise UserError(f"{where} has {len(fields)} fields in line {number}, expected 2 ids: download it again.")
    return _checked([(first, second) for first, second in lines], count, "pairs of ids", where)


def split(pairs: Iterable[Pair], ids: Iterable[Ids]) -> tuple[list[Pair], list[Pair]]:
    """GLUE's rule: a pair whose ids are listed belongs to dev (the second list), any other one to train."""
    listed, parts = set(ids), ([], [])
    for pair in pairs:
        parts[pair.ids in listed].append(pair)
    return parts


def examples(pairs: Sequence[Pair]) -> Examples:
    """Rows as arrays."""
    return of_columns([p.first for p in pairs], [p.second for p in pairs], [p.label for p in pairs])


def of_columns(first: Sequence, second: Sequence, label: Sequence | np.ndarray) -> Examples:
    """Columns as arrays: sentences of dtype object, labels int32; ValueError if they hold anything else."""
    for sentence in (*first, *second):
        if not isinstance(sentence, str):
            raise ValueError(f"its sentences have {sentence!r} among them, expected text")
    return {
        "first": np.array(first, object),
        "second": np.array(second, object),
        "label": integers(label, "its labels") if len(label) else np.zeros(0, np.int32),
    }


def _lines(content: bytes, where: str, encoding: str) -> list[list[str]]:
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 text (byte {error.start}): download it again.") from None
    # Split at line feeds alone: sentences may hold other characters that count as line ends.
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r").split("\t") for line in lines]


def _checked(rows: list, count: int, what: str, where: str) -> list:
    if len(rows) != count:
        raise UserError(f"{where} has {len(rows)} {what}, expected {count}: download it again.")
    return rows


def _wrong_header(fields: list[str], where: str) -> str:
    if fields[:1] == ["index"]:
        return (
            f"{where} is GLUE's test file without labels: put the published msr_paraphrase_test.txt, "
            f"msr_paraphrase_train.txt and dev_ids.tsv there instead."
        )
    return f"{where} does not begin with the columns {', '.join(HEADER)}: download it again."
