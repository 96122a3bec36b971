"""From the splits that one's own data come in to the three of a run: what is missing is drawn by the seed.

    test         `test_size` of each class, a fifth
    validation   a tenth of each class, but in all no more than `validation`, or than one of each class

Both are drawn out of the training examples, of each class alike (stratified), at least one of each. Each split is put
into one random order, the same for every seed: often the examples come class by class, and then the first few of a
split, or those of one batch of an evaluation, would be of one class.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from pydantic import Field

from moejax.data.dataset import Dataset, Examples, concatenate, rows, take
from moejax.errors import UserError, abridged

NAMES = {  # what a split is called by those who make data sets
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
VALIDATION_SHARE = 0.1
VERBS = {"train": "train", "validation": "validate", "test": "test"}  # what a split is for

TestSize = Annotated[
    float,
    Field(gt=0, lt=1, description="Share of each class held back for the test where the data have no test split."),
]


def dataset_of(
    name: str,
    splits: Mapping[str, Examples],
    classes: Sequence[str],
    *,
    origin: str,
    sha256: dict[str, str],
    validation: int,
    test_size: float,
    seed: int,
    notes: Sequence[str] = (),
) -> Dataset:
    """The data set of such splits, "train" and perhaps others, whose labels are 0 … len(classes) - 1.

    Args:
      validation: 0 trains on the validation examples too, if there are any.

    Raises:
      UserError: there is one class alone, a split is empty, one has a class that "train" has not, or a class has too
        few examples to divide.
    """
    splits = {s: take(examples, np.random.default_rng(0).permutation(rows(examples))) for s, examples in splits.items()}
    _check(splits, classes, origin)
    train, count = splits["train"], np.bincount(splits["train"]["label"])
    wanted = {"test": np.rint(test_size * count).astype(int), "validation": _at_most(validation, count)}
    wanted = {s: of_class for s, of_class in wanted.items() if s not in splits and (s != "validation" or validation)}
    _check_enough(count, classes, list(wanted), origin)
    parts = {"validation": take(train, slice(0))} | splits | divided(train, wanted, seed)
    if not validation:
        parts["train"] = concatenate(parts["train"], parts["validation"])
        parts["validation"] = take(train, slice(0))
    if wanted:
        sizes = ", ".join(f"{rows(parts[split]):,} to {verb}" for split, verb in VERBS.items())
        notes = (*notes, f"Split by seed {seed}, each class alike: {sizes}.")
    of_run = {split: parts[split] for split in VERBS}
    return Dataset(
        name, "dir", origin, sha256, **of_run, num_classes=len(classes), notes=tuple(notes), classes=tuple(classes)
    )


def divided(train: Examples, wanted: Mapping[str, Int[ndarray, " y"]], seed: int) -> dict[str, Examples]:
    """The wanted splits, with so many examples of each class, and "train" with the others.

    There is at least one of each class in each, if there are as many. The same seed draws the same rows on every
    machine.
    """
    parts, left = {}, np.ones(rows(train), bool)
    for number, (split, of_class) in enumerate(wanted.items()):
        rng, held = np.random.default_rng([seed, number]), np.zeros(rows(train), bool)
        for y, count in enumerate(of_class):
            members = rng.permutation(np.flatnonzero(left & (train["label"] == y)))
            held[members[: min(max(1, count), len(members) - (len(wanted) - number))]] = True
        parts[split], left = take(train, held), left & ~held
    return parts | {"train": take(train, left)}


def _at_most(validation: int, count: Int[ndarray, " y"]) -> Int[ndarray, " y"]:
    """How many of each class to validate on."""
    exact = count * min(VALIDATION_SHARE, validation / count.sum())
    held = np.maximum(1, np.rint(exact)).astype(int)
    while held.sum() > max(validation, len(held)):  # rounding has made it more
        held[np.where(held > 1, held - exact, -np.inf).argmax()] -= 1
    return held


def _check(splits: Mapping[str, Examples], classes: Sequence[str], origin: str) -> None:
    """UserError unless there are two classes, and examples of each to train on, and of some in every split."""
    if len(classes) < 2:
        only = f" ({abridged(repr(classes[0]))})" if classes else ""
        raise UserError(f"{origin} has {len(classes)} classes{only}: a network tells at least 2 from each other.")
    known = np.isin(np.arange(len(classes)), splits["train"]["label"])
    for split, examples in splits.items():
        if not rows(examples):
            raise UserError(f"The {split} split of {origin} is empty: fill it, or remove it.")
        if (unknown := examples["label"][~known[examples["label"]]]).size:
            raise UserError(
                f"The {split} split of {origin} has the class {classes[unknown.min()]!r}, which the train split has"
                " not: add some to train, or remove it there."
            )


def _check_enough(counts: Int[ndarray, " y"], classes: Sequence[str], drawn: Sequence[str], origin: str) -> None:
    few = np.flatnonzero(counts < 1 + len(drawn))
    if drawn and few.size:
        raise UserError(
            f"The class {classes[few[0]]!r} of {origin} has {counts[few[0]]} training examples, too few to train and to"
            f" hold out for {' and '.join(drawn)}: give it {1 + len(drawn)} at least, or take it out."
        )
