"""Text of one's own, to learn to continue it: files in UTF-8, cut into windows of tokens.

Every token of a split but its first is to be foretold once, from those before it in its window. Files are joined with
`END` between them. Whole files are held out, chosen by their names, so that all seeds and machines hold out the same;
where no files are small enough for that, the end of each file is.
"""

import fnmatch
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path as File
from typing import Annotated, Any

import numpy as np
from jaxtyping import UInt
from numpy import ndarray
from pydantic import Field

from moejax.data.dataset import Dataset, Examples, Path, Validation, check_room, own_path
from moejax.data.splits import VERBS
from moejax.data.text_tokens import END, BytePairs, Bytes, TextTokens
from moejax.errors import UserError, of_the_system

Texts = Mapping[str, str]  # by the file's name
Length = Annotated[int, Field(ge=2, le=2**16, description="Tokens of a window.")]
Pieces = Annotated[
    int | None,
    Field(
        ge=257,
        le=2**20,
        description="Tokens of byte pairs trained on what is learnt from; none: the 256 bytes.",
    ),
]
HeldOut = Annotated[
    float,
    Field(
        gt=0, lt=0.5, description="Share of the bytes held out for the test, and as much again for validation, by file."
    ),
]


def load(
    dir: Path = None,
    pattern: str = "*",
    held_out: HeldOut = 0.05,
    length: Length = 128,
    vocabulary: Pieces = None,
    validation: Validation = 5000,
    seed: int = 0,
) -> Dataset:
    """Loads a file, or all files of a folder and the folders in it but hidden ones.

    Args:
      dir: a file of UTF-8 text, or a folder of such files.
      pattern: names of the files of a folder, such as *.md.

    Returns:
      train, validation, test: {"tokens", "label": [n, length]}: windows, and the token after each of their tokens.

    Raises:
      UserError: a file is no text, or there is too little of it.
    """
    root = own_path(dir, "text", "a file or a folder of text")
    texts = {name: read(path) for name, path in files_of(root, pattern).items()}
    return dataset_of(
        "text",
        texts,
        source="dir",
        origin=str(root),
        held_out=held_out,
        length=length,
        vocabulary=vocabulary,
        validate=validation > 0,
    )


def files_of(root: File, pattern: str) -> dict[str, File]:
    """The files, by their paths in the folder, sorted; UserError if there are none."""
    if root.is_file():
        if not fnmatch.fnmatchcase(root.name, pattern):
            raise UserError(f"{root} is a file that does not fit {pattern} (--data.pattern): leave the pattern out.")
        return {root.name: root}
    if not root.is_dir():
        raise UserError(f"--data.dir={root} is not there: name a file or a folder of text.")
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    names = [name for name in paths if not any(part.startswith(".") for part in name.split("/"))]
    fitting = sorted(name for name in names if fnmatch.fnmatchcase(name.rpartition("/")[2], pattern))
    if not fitting:
        there = f"{len(names)} files, none of them {pattern} (--data.pattern)" if names else "no files"
        raise UserError(f"{root} has {there}: name a folder that holds text.")
    return {name: paths[name] for name in fitting}


def read(path: File) -> str:
    """The text of a file; UserError if it is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{of_the_system(error, path)} Mend that, or leave the file out by --data.pattern.") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8, or leave it out by --data.pattern."
        ) from None
    if "\0" in text:
        raise UserError(f"{path} has a NUL in it, as no text has: leave it out by --data.pattern.")
    return text


def dataset_of(
    name: str,
    texts: Texts,
    *,
    source: str,
    origin: str,
    held_out: float,
    length: int,
    vocabulary: int | None,
    validate: bool,
) -> Dataset:
    """The data set of such texts; `validate`: False trains on the validation examples, too."""
    splits, notes = divided(texts, held_out)
    if not validate:
        train, more = splits["train"], splits["validation"]  # of a text that was cut, more is what follows
        both = {name: train.get(name, "") + more.get(name, "") for name in train | more}
        splits = {"train": both, "validation": {}, "test": splits["test"]}
    size = sum(len(text) for of_split in splits.values() for text in of_split.values())
    check_room(4 * size, f"{size:,} letters as tokens", "leave some out by --data.pattern")
    learnt = list(splits["train"].values())
    tool: TextTokens = Bytes() if vocabulary is None else BytePairs.trained(name, learnt, vocabulary)
    joined = {split: stream(tool, of_split.values()) for split, of_split in splits.items()}
    for split, of_split in joined.items():
        if len(of_split) <= length and (splits[split] or split != "validation"):
            raise UserError(
                f"The {split} split of {origin} has {len(of_split) - 1} tokens, less than a window of {length}"
                " (--data.length): give more text, or make the windows shorter."
            )
    examples = {split: windows(of_split, length) for split, of_split in joined.items()}
    order = np.random.default_rng(0).permutation(len(examples["train"]["label"]))
    examples["train"] = {key: array[order] for key, array in examples["train"].items()}  # some of them are a sample
    counts = ", ".join(f"{len(splits[s])} files to {v}" for s, v in VERBS.items())
    return Dataset(
        name,
        source,
        origin,
        {split: hashlib.sha256(of_split).hexdigest() for split, of_split in joined.items()},
        **examples,
        num_classes=tool.vocabulary,
        notes=notes or (f"Split by file: {counts}.",),
        tokenizer=tool.tokenizer,
        token_bytes=tool.lengths,
    )


def divided(texts: Texts, held_out: float) -> tuple[dict[str, dict[str, str]], tuple[str, ...]]:
    """The files of each split, in the order of their names; and what is to be said of it.

    Files go to the test, and then to validation, in the order of their names' digests, until so large a share of the
    bytes is there; one that alone is more goes to neither. Where no file can, all are cut.
    """
    sizes = {name: len(text.encode()) for name, text in texts.items()}
    wanted = held_out * sum(sizes.values())
    split_of = dict.fromkeys(texts, "train")
    by_digest = iter(sorted(texts, key=lambda name: hashlib.sha256(os.fsencode(name)).digest()))
    for split in ("test", "validation"):
        there = 0
        while there < wanted and (name := next(by_digest, None)) is not None:
            if sizes[name] <= wanted:
                split_of[name], there = split, there + sizes[name]
    splits = {split: {name: texts[name] for name in texts if split_of[name] == split} for split in VERBS}
    if all(any(of_split.values()) for of_split in splits.values()):
        return splits, ()
    parts: dict[str, dict[str, str]] = {split: {} for split in VERBS}
    for name, text in texts.items():
        cuts = [0, *(round(len(text) * (1 - share * held_out)) for share in (2, 1)), len(text)]
        for split, start, stop in zip(VERBS, cuts, cuts[1:], strict=False):
            parts[split][name] = text[start:stop]
    return parts, ("Files are too few or too large to hold out whole ones: the end of each is held out.",)


def stream(tool: TextTokens, texts: Any) -> UInt[ndarray, " n"]:
    """All texts as tokens, with `END` before, between and behind them."""
    end = np.array([END], np.min_scalar_type(tool.vocabulary - 1))
    return np.concatenate([end, *(part for text in texts for part in (tool.encode(text), end))])


def windows(tokens: UInt[ndarray, " n"], length: int) -> Examples:
    """Windows one after the other, each with the tokens that follow its own; a rest that fills none is left out."""
    count = max(len(tokens) - 1, 0) // length
    return {
        "tokens": tokens[: count * length].reshape(count, length),
        "label": tokens[1 : count * length + 1].reshape(count, length),
    }
