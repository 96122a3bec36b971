"""Data sets by name: found, verified, and in memory as numpy arrays.

    mnist = load("mnist")
    mnist.train["image"], mnist.train["label"]      uint8 [55000, 28, 28], int32 [55000]

A data set is one file of this folder and one line of `DATASETS`. How files are found and verified is in `find`.
Importing this costs numpy only: a library that a source needs is imported when that source is used.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

from moejax.arguments import whole
from moejax.data import clusters, mnist, mrpc, mrpc_pieces
from moejax.data.dataset import Dataset, Examples
from moejax.errors import UserError

__all__ = ["DATASETS", "OPTIONS", "SOURCES", "Dataset", "Examples", "load"]

SOURCES = ("auto", "dir", "cache", "mirror", "wheel", "embedded", "synthetic", "tfds", "hf")

# name → (source, directory, validation, seed, its own options) → Dataset
DATASETS: dict[str, Callable[..., Dataset]] = {
    "mnist": functools.partial(mnist.load, mnist.MNIST),
    "fashion_mnist": functools.partial(mnist.load, mnist.FASHION_MNIST),
    "mrpc": mrpc.load,
    "mrpc_pieces": mrpc_pieces.load,
}
# Made from the seed: name → (validation, seed, its own options) → Dataset
MADE: dict[str, Callable[..., Dataset]] = {"clusters": functools.partial(clusters.load, setting="s1")}
# Which further fields of the configuration a data set wants, under their names there.
OPTIONS: dict[str, tuple[str, ...]] = {
    "mrpc": ("tokenizer", "vocabulary", "length"),
    "mrpc_pieces": ("tokenizer",),
    "clusters": ("setting",),
}


def load(
    name: str,
    *,
    source: str = "auto",
    directory: str | None = None,
    validation: int = 5000,
    seed: int = 0,
    **options: Any,
) -> Dataset:
    """Loads a data set.

    Args:
      name: one of `DATASETS` or `MADE`.
      source: one of `SOURCES`. "auto" takes the first that works: `directory` or the environment's MOEJAX_DATA_DIR
        (if set, it must be right), the cache, the mirrors, and for MNIST the package index and 5,000 embedded images.
        A source that is named is the only one tried.
      directory: the folder that holds the files ("auto", "dir"), TensorFlow's data_dir ("tfds"), or a saved
        Hugging Face data set ("hf").
      validation: how many training examples to hold out; a set with a validation split of its own says what it means.
      seed: draws them.
      options: what `OPTIONS` names for this data set.

    Raises:
      UserError: a name is unknown, a number is none, a file is missing or damaged, or no source works.
    """
    # The least and the most to hold out differ by data set.
    for problem in whole("validation", validation, -sys.maxsize) + whole("seed", seed, 0):
        raise UserError(problem)
    if name in MADE:
        if source != "auto" or directory is not None:
            raise UserError(f"--data.name={name} is made, not read: leave out --data.source and --data.dir.")
        return MADE[name](validation=validation, seed=seed, **options)
    if name not in DATASETS:
        raise UserError(f"--data.name={name} is unknown: choose one of {', '.join([*DATASETS, *MADE])}.")
    if source not in SOURCES:
        raise UserError(f"--data.source={source} is unknown: choose one of {', '.join(SOURCES)}.")
    if directory is not None and source not in ("auto", "dir", "tfds", "hf"):
        raise UserError(f"--data.dir={directory} is not used by --data.source={source}: leave one of the two out.")
    return DATASETS[name](source, directory, validation, seed, **options)
