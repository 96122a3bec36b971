"""Several questions about one image: which digit, is it odd, how much ink, how does it lean.

A label is [n, tasks], one number a task in the order in which they are asked for. All is computed from MNIST's own
images and labels, in whole numbers until the last division, so that every machine finds the same. Where an answer
depends on a threshold, the threshold is a quantile of the training images.

The tasks `half`, `half_1`, …, `half_5` ask whether the digit is one of five. The seed puts the ten digits into a ring,
and `half_s` has the five from place s on: it agrees with `half` on 10 - 2s digits, so that the answers correlate by
1 - 0.4 s (Ma et al. 2018, section 3.2, make regressions of a given correlation). `half_5` is `half` with the answers
exchanged.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from pydantic import AfterValidator

from moejax.data import mnist
from moejax.data.dataset import Dataset, Dir, Examples, Source, Validation

Answer = Callable[[Examples, Examples, int], Int[ndarray, " n"]]
"""(examples, the training examples, seed) → each example's class."""

_DIGITS = 10
_MARGIN = 4  # blank pixels around a digit of MNIST
_CHUNK = 10_000  # images at a time, as float64


@dataclasses.dataclass(frozen=True)
class Task:
    """A question about an image, the number of its answers, what answers it, and which augmentations change that.

    `changed_by`: from beyond which value on.
    """

    question: str
    classes: int
    answer: Answer
    changed_by: Mapping[str, int] = dataclasses.field(default_factory=dict)


def ink(images: UInt8[ndarray, "n i j"]) -> Int[ndarray, " n"]:
    """The sum of an image's pixels."""
    return images.sum((1, 2), dtype=np.int64)


def slant(images: UInt8[ndarray, "n i j"]) -> Float[ndarray, " n"]:
    """By how many columns strokes lean to the right for each row up: the regression of column on row; 0 if blank."""
    rows, columns = np.mgrid[: images.shape[1], : images.shape[2]]
    rows, columns = images.shape[1] - 1 - 2 * rows, 2 * columns - images.shape[2] + 1  # upwards; twice, to be whole
    of_pixel = np.stack([np.ones_like(rows), rows, columns, rows * columns, rows**2], axis=-1)
    of_pixel = of_pixel.reshape(-1, 5).astype(np.float64)
    flat = images.reshape(len(images), len(of_pixel))
    parts = [flat[i : i + _CHUNK] @ of_pixel for i in range(0, len(flat), _CHUNK)]
    total, row, column, product, square = np.concatenate([np.zeros((0, 5)), *parts]).T
    covariance, variance = total * product - row * column, total * square - row * row
    return np.divide(covariance, variance, out=np.zeros_like(total), where=variance > 0)


def five_of(seed: int, shift: int) -> Int[ndarray, "5"]:
    """The five digits from that place on in the seed's ring."""
    ring = np.random.default_rng([seed, _DIGITS]).permutation(_DIGITS)
    return ring[(shift + np.arange(_DIGITS // 2)) % _DIGITS]


def _part_of(measure: Callable[[ndarray], ndarray], parts: int) -> Answer:
    """In which of so many equal parts of the training images an image is by a measure, the least first."""

    def answer(examples: Examples, train: Examples, seed: int) -> Int[ndarray, " n"]:
        limits = np.quantile(measure(train["image"]), np.arange(1, parts) / parts)
        return np.searchsorted(limits, measure(examples["image"]))

    return answer


def _half(shift: int, examples: Examples, train: Examples, seed: int) -> Int[ndarray, " n"]:
    return np.isin(examples["label"], five_of(seed, shift)).astype(np.int32)


TASKS = {
    "digit": Task("which digit", _DIGITS, lambda examples, train, seed: examples["label"]),
    "parity": Task("is it odd", 2, lambda examples, train, seed: examples["label"] % 2),
    "size": Task(
        "has it more ink than half of the images",
        2,
        _part_of(ink, 2),
        {"zoom": 0, "elastic": 0, "crop": 0, "shift": _MARGIN},
    ),
    "slant": Task(
        "in which third of the images by how it leans, the left first",
        3,
        _part_of(slant, 3),
        {"rotate": 0, "elastic": 0, "crop": 0, "shift": _MARGIN},
    ),
    "half": Task("is it one of five digits, which the seed chooses", 2, partial(_half, 0)),
    **{
        f"half_{s}": Task(f"the same, with {s} of the five exchanged", 2, partial(_half, s))
        for s in range(1, _DIGITS // 2 + 1)
    },
}


def _names(text: str) -> str:
    names = text.split(",")
    if (wrong := [name for name in names if name not in TASKS]) or len(set(names)) < len(names):
        what = f"which names no task {wrong[0]!r}" if wrong else "which names a task twice"
        raise ValueError(f"{text!r}, {what}; name some of {', '.join(TASKS)}, joined by commas")
    return text


Tasks = Annotated[str, AfterValidator(_names)]


def load(
    images: mnist.ImageSet,
    tasks: Tasks = "digit,parity,size,slant",
    source: Source = "auto",
    dir: Dir = None,
    validation: Validation = 5000,
    seed: int = 0,
) -> Dataset:
    """Loads the images as `mnist.load` does, with a label [n, tasks]; tables and pictures show the first task.

    Args:
      tasks: which questions, joined by commas: digit; parity; size (has it more ink than half of the images); slant (in
        which third of the images by how it leans); half (is it one of five digits that the seed chooses), half_1 to
        half_5 (the same with so many of the five exchanged).
    """
    data = mnist.load(images, source, dir, validation, seed)
    chosen = {name: TASKS[name] for name in tasks.split(",")}

    def labelled(examples: Examples) -> Examples:
        answers = [task.answer(examples, data.train, seed) for task in chosen.values()]
        return examples | {"label": np.stack(answers, axis=1).astype(np.int32)}

    classes = {name: task.classes for name, task in chosen.items()}
    splits = {name: labelled(getattr(data, name)) for name in ("train", "validation", "test")}
    first = next(iter(classes.values()))
    return dataclasses.replace(data, name=f"{images.name}_tasks", **splits, num_classes=first, tasks=classes)
