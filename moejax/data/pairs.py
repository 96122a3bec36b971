"""Pairs of texts of one's own with a label, in a table: tab- or comma-separated, Parquet or JSON lines.

    FILE.tsv           not split
    FOLDER/train.tsv   split; perhaps validation.tsv (valid, val, dev) and test.tsv beside it

How a table is read: `moejax.data.table`.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path as File
from typing import Annotated

import numpy as np
from pydantic import Field

from moejax.data import tokens
from moejax.data.dataset import Dataset, Path, Validation, Vocabulary, own_path
from moejax.data.labels import numbered, of_words
from moejax.data.splits import NAMES, TestSize, dataset_of
from moejax.data.table import READERS, read
from moejax.errors import UserError, abridged

PAIRS = (
    ("sentence1", "sentence2"),
    ("text1", "text2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("sentence_a", "sentence_b"),
    ("text_a", "text_b"),
    ("first", "second"),
    ("#1 string", "#2 string"),
)
LABELS = ("label", "labels", "gold_label", "is_duplicate", "quality", "class", "target")

Column = str | None


def load(
    dir: Path = None,
    first_column: Column = None,
    second_column: Column = None,
    label_column: Column = None,
    test_size: TestSize = 0.2,
    validation: Validation = 5000,
    seed: int = 0,
    *,
    tokenizer: Path = None,
    vocabulary: Vocabulary = 8000,
    length: Annotated[int, Field(ge=1, le=4096)] = 48,
) -> Dataset:
    """Loads pairs of texts as token ids, each text by itself.

    Args:
      dir: a .tsv, .csv, .parquet or .jsonl file with a row a pair, or a folder with train.tsv and its siblings.
      first_column: name of the column of first texts; none: that of sentence1 and sentence2, text1 and text2, premise
        and hypothesis, question1 and question2, or others as usual.
      second_column: name of the column of second texts.
      label_column: name of the column of labels; none: label, gold_label, is_duplicate, or another usual one.
      tokenizer: folder with a tokenizer.json; none trains one on the texts to train on.
      vocabulary: tokens that the tokenizer has at most, and rows of the embeddings.
      length: tokens of a text; what is longer is cut.

    Returns:
      train, validation, test: {"first", "second": int32 [n, length], filled up with 0, "label": int32 [n]}.

    Raises:
      UserError: about the file, its columns, or a row.
    """
    root = own_path(dir, "pairs", "a .tsv, .csv, .parquet or .jsonl file")
    files = files_of(root)
    named = first_column, second_column, label_column
    splits, labels = {}, {}
    for split, paths in files.items():
        table, where = read(paths), str(paths[0])
        first, second, label = columns(table, named, where)
        splits[split] = {"first": texts(table[first], first, where), "second": texts(table[second], second, where)}
        labels[split] = of_words(table[label], f"{where} ({split})")
    numbers, classes = numbered(labels, str(root))
    splits = {split: of_split | {"label": numbers[split]} for split, of_split in splits.items()}
    every_file = [path for paths in files.values() for path in paths]
    text = dataset_of(
        "pairs",
        splits,
        classes,
        origin=str(root),
        sha256={path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in every_file},
        validation=validation,
        test_size=test_size,
        seed=seed,
    )
    return tokens.tokenized(text, tokenizer, vocabulary, length)


def files_of(root: File) -> dict[str, list[File]]:
    """The files of each split; one file alone is the train split.

    UserError if there are none, or some that are not named by their split.
    """
    if root.is_file():
        if root.suffix.lower() not in READERS:
            raise UserError(f"--data.dir={root} is no table by its ending: give a file of {', '.join(READERS)}.")
        return {"train": [root]}
    if not root.is_dir():
        raise UserError(f"--data.dir={root} is not there: name a table ({', '.join(READERS)}) or a folder of tables.")
    tables = sorted(
        path for path in root.iterdir() if path.is_file() and path.suffix.lower() in READERS and path.name[0] != "."
    )
    if not tables:
        raise UserError(f"{root} holds no table ({', '.join(READERS)}): put train.tsv there, or name the file itself.")
    files: dict[str, list[File]] = {}
    for path in tables:
        name = _split_named(path)
        split = next((split for split, names in NAMES.items() if name in names), None)
        if split is None and len(tables) == 1:
            return {"train": tables}
        if split is None:
            raise UserError(f"{path} is not named by its split: call it train, validation or test, or move it away.")
        files.setdefault(split, []).append(path)
    for first, *others in files.values():
        for other in others:
            if _split_named(first) != _split_named(other) or not (_is_part(first) and _is_part(other)):
                raise UserError(f"{root} has both {first.name} and {other.name}, which are one split: join the two.")
    if "train" not in files:
        raise UserError(
            f"{root} has {tables[0].name}, but no train{tables[0].suffix}: add it, or name the file itself."
        )
    return files


_PART = re.compile(r"-\d+-of-\d+$")  # of a split, as on the Hugging Face hub


def _is_part(path: File) -> bool:
    return _PART.search(path.stem) is not None


def _split_named(path: File) -> str:
    return _PART.sub("", path.stem.lower())


def columns(table: Mapping[str, Sequence], named: Sequence[str | None], where: str) -> tuple[str, str, str]:
    """The names of the columns of first texts, second texts and labels: those named, else the usual ones.

    UserError if a column that was named is not there, or none has a usual name.
    """
    there = ", ".join(map(repr, table)) or "none"
    for name, option in zip(named, ("first_column", "second_column", "label_column"), strict=True):
        if name is not None and name not in table:
            raise UserError(f"{where} has no column {name!r}, but {there}: name one of these with --data.{option}.")
    known: dict[str, str] = {}
    for name in table:
        if (other := known.setdefault(name.lower().strip(), name)) != name and not all(named):
            raise UserError(f"{where} has the columns {other!r} and {name!r}: name the three to take by their options.")
    pair = next((pair for pair in PAIRS if all(name in known for name in pair)), None)
    usual = [known[name] if pair else None for name in pair or (None, None)]
    usual.append(next((known[name] for name in LABELS if name in known), None))
    first, second, label = (name or other for name, other in zip(named, usual, strict=True))
    if first is None or second is None:
        raise UserError(
            f"{where} has the columns {there}, none of which are usual for two texts: name them with"
            " --data.first_column and --data.second_column."
        )
    if label is None:
        raise UserError(f"{where} has the columns {there}: name that of the labels with --data.label_column.")
    if len({first, second, label}) < 3:
        raise UserError(f"{where}: no column can be two of first text, second text and label ({there}); name three.")
    return first, second, label


def texts(values: Sequence, column: str, where: str) -> np.ndarray:
    """A column as an array of dtype object; UserError for what is no text, or nothing but blanks."""
    for row, value in enumerate(values, start=1):
        if not isinstance(value, str):
            raise UserError(f"{where} has {abridged(repr(value))} as {column} in row {row}, expected text: mend it.")
        if not value.strip():
            raise UserError(f"{where} has nothing as {column} in row {row}: give it a text, or leave the row out.")
    array = np.empty(len(values), object)
    array[:] = values
    return array
