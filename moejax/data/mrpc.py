"""The Microsoft Research Paraphrase Corpus in GLUE's split: 5,801 sentence pairs from news, 1 = paraphrase, 0 = not.

It comes as published (two .txt files and the ids of GLUE's dev pairs, from which the split is made) or as GLUE's three
.tsv files with the labels of the test pairs. The split has a dev part of its own, and that is the validation. Nothing
of it is embedded here: its licence does not allow that. W. B. Dolan, C. Brockett, "Automatically Constructing a Corpus
of Sentential Paraphrases", IWP 2005; A. Wang et al., "GLUE", arXiv:1804.07461.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from moejax.data import find, hf, pair_table, synthetic_pairs, tfds, tokens
from moejax.data.dataset import (
    Dataset,
    Dir,
    Examples,
    Path,
    Source,
    Validation,
    Vocabulary,
    concatenate,
    hold_out,
    take,
)
from moejax.data.verify import File
from moejax.errors import UserError

COUNTS = {"train": 3668, "validation": 408, "test": 1725}


@dataclasses.dataclass(frozen=True)
class PairSet:
    """A corpus of sentence pairs in both of its layouts.

    Attributes:
      name: of the set and of its folder.
      original: the files as published: pairs to train with those of dev among them, pairs to test, the ids of dev.
      split: the files by split.
      counts: pairs by split.
      mirrors: each a URL for every original file, by name.
    """

    name: str
    original: tuple[File, File, File]
    split: tuple[File, File, File]
    counts: dict[str, int]
    mirrors: tuple[dict[str, str], ...]
    auto: tuple[str, ...] = ("cache", "mirror")


def _file(name: str, size: int, sha256: str, pairs: int, original: bool = False) -> File:
    return File(name, size, sha256, functools.partial(pair_table.decode, pairs, original))


_TEXT = "https://dl.fbaipublicfiles.com/senteval/senteval_data/"
_IDS = "https://dl.fbaipublicfiles.com/glue/data/mrpc_dev_ids.tsv"
_OLDER_IDS = (
    "https://firebasestorage.googleapis.com/v0/b/mtl-sentence-representations.appspot.com/o/data%2Fmrpc_dev_ids.tsv"
    "?alt=media&token=ec5c0836-31d5-48f4-b431-7480817f1adc"
)
_TRAIN, _TEST, _DEV_IDS = "msr_paraphrase_train.txt", "msr_paraphrase_test.txt", "dev_ids.tsv"

MRPC = PairSet(
    name="mrpc",
    original=(
        _file(_TRAIN, 1_047_044, "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89", 4076, True),
        _file(_TEST, 441_275, "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784", 1725, True),
        File(
            _DEV_IDS,
            6222,
            "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7",
            functools.partial(pair_table.decode_ids, 408),
            ("mrpc_dev_ids.tsv",),
        ),
    ),
    split=(
        _file("train.tsv", 941_468, "15d9c71e62d662b1cc9237e2015047cad4c1f62552d49858a9bce2b944d79897", 3668),
        _file("dev.tsv", 105_613, "320459df9454dbdc8eea69ad1eb294967e7dfe03e7cf791f37d954a316f5253d", 408),
        _file("test.tsv", 441_272, "150077ee6d6ca088fef5c70e2bd1f194680d80f9a537726ae8debabdd955b146", 1725),
    ),
    counts=COUNTS,
    mirrors=tuple({_TRAIN: _TEXT + _TRAIN, _TEST: _TEXT + _TEST, _DEV_IDS: ids} for ids in (_IDS, _OLDER_IDS)),
)

NO_TEST_LABELS = (
    "TensorFlow Datasets has no labels for MRPC's 1,725 test pairs: the test here is on the 408 dev pairs, and the "
    "validation is held out of the training pairs; results are not comparable with those on the test pairs."
)


def read_pairs(source: str, directory: str | None, validation: int, seed: int, pairs: PairSet = MRPC) -> Dataset:
    """The sentence pairs as text; arguments and errors as in `moejax.data.load`.

    Args:
      validation: 0 trains on the dev pairs too; with any other number they are the validation. Only a source that has
        no labels for the test pairs holds out so many (at most a tenth) of the training pairs.

    Returns:
      train, validation, test: {"first": str [n], "second": str [n] (both of dtype object), "label": int32 [n]}.
    """
    sources: dict[str, Callable[[], Dataset]] = {
        "dir": lambda: from_files(pairs, find.user_folder(pairs.name, pairs.original, directory, pairs.split)),
        "cache": lambda: from_files(pairs, find.cached(pairs.name, pairs.original)),
        "mirror": lambda: from_files(pairs, find.mirrored(pairs.name, pairs.original, pairs.mirrors)),
        "synthetic": lambda: from_splits(pairs, *synthetic_pairs.make(pairs.counts), (synthetic_pairs.NOTE,)),
        "tfds": lambda: from_splits(pairs, *tfds.read("glue/mrpc", directory, _of_rows, host=_TEXT, tensorflow=False)),
        "hf": lambda: from_splits(pairs, *hf.read("nyu-mll/glue", directory, _of_rows, _COLUMNS, subset="mrpc")),
    }
    dataset = find.from_source(pairs.name, sources, pairs.auto, source, directory)
    if validation == 0:
        nothing = take(dataset.validation, slice(0))
        both = concatenate(dataset.train, dataset.validation)
        return dataclasses.replace(dataset, train=both, validation=nothing)
    if len(dataset.validation["label"]):
        return dataset
    return hold_out(dataset, min(validation, pairs.counts["train"] // 10), seed)


def load(
    source: Source = "auto",
    dir: Dir = None,
    validation: Validation = 5000,
    seed: int = 0,
    *,
    tokenizer: Path = None,
    vocabulary: Vocabulary = 8000,
    length: Annotated[int, Field(ge=1, le=4096)] = 48,
    pairs: PairSet = MRPC,
) -> Dataset:
    """The pairs as token ids, each sentence by itself; the other arguments and errors as in `read_pairs`.

    Args:
      tokenizer: folder with a tokenizer.json; none trains one on the training sentences.
      vocabulary: tokens that the tokenizer has at most, and rows of the embeddings.
      length: tokens of a sentence; what is longer is cut.

    Returns:
      train, validation, test: {"first", "second": int32 [n, length], filled up with 0, "label": int32 [n]}.
    """
    return tokens.tokenized(read_pairs(source, dir, validation, seed, pairs), tokenizer, vocabulary, length)


def from_files(pairs: PairSet, found: find.Found) -> Dataset:
    """The set out of its published files, in whichever layout they were found."""
    tables = found.values
    files = pairs.original if pairs.original[0].name in tables else pairs.split
    if files is pairs.original:
        (train, test, ids) = (tables[file.name] for file in files)
        train, validation = pair_table.split(train, ids)
    else:
        train, validation, test = (tables[file.name] for file in files)
    splits = {"train": train, "validation": validation, "test": test}
    dataset = from_splits(pairs, {name: pair_table.examples(rows) for name, rows in splits.items()}, found.origin)
    return dataclasses.replace(dataset, sha256={file.name: file.sha256 for file in files})


def from_splits(pairs: PairSet, splits: dict[str, Examples], origin: str, notes: tuple[str, ...] = ()) -> Dataset:
    """The set out of its three splits. Where the test pairs have no labels (all -1), the dev pairs are the test.

    Raises:
      UserError: a split is missing, or has other than the published number of pairs, or another label than 0 and 1.
    """
    for split, count in pairs.counts.items():
        if split not in splits:
            raise UserError(f"{origin} has no split {split!r} ({', '.join(splits) or 'none'}): name another data set.")
        label = splits[split]["label"]
        if len(label) != count:
            raise UserError(
                f"The {split} split of {origin} has {len(label)} pairs, expected {count}: name the complete data set."
            )
        wrong = label[(label < 0) | (label > 1)]
        if wrong.size and not (split == "test" and (label == -1).all()):
            raise UserError(
                f"The {split} split of {origin} has the label {wrong[0]}, expected 0 or 1: replace it with the "
                f"published data."
            )
    train, validation, test = (splits[split] for split in pairs.counts)
    if (test["label"] == -1).all():
        test, validation, notes = validation, take(validation, slice(0)), (*notes, NO_TEST_LABELS)
    return Dataset(pairs.name, "", origin, {}, train, validation, test, 2, notes)


_COLUMNS = ("sentence1", "sentence2", "label")


def _of_rows(rows) -> Examples:
    """One split of a library, row by row."""
    columns = list(zip(*([row[name] for name in _COLUMNS] for row in rows), strict=True))
    first, second = ([s.decode() if isinstance(s, bytes) else s for s in column] for column in columns[:2])
    return pair_table.of_columns(first, second, columns[2])
