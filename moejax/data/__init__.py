"""Data sets by name: found, verified, and in memory as numpy arrays.

    mnist = load("mnist")
    mnist.train["image"], mnist.train["label"]      uint8 [55000, 28, 28], int32 [55000]

A data set is one file of this folder and one line of `DATASETS`. How files are found and verified is in `find`.
Importing this costs NumPy and Pillow only: a library that a source needs is imported when that source is used.
"""

import functools
from typing import Annotated, Any

from pydantic import Field

from moejax.data import (
    arrays,
    clusters,
    domains,
    idx_files,
    image_tasks,
    images,
    ink,
    mnist,
    mrpc,
    mrpc_pieces,
    pairs,
    python_library,
    text,
)
from moejax.data.dataset import SOURCES, Dataset, Examples, Loader, first
from moejax.errors import UserError
from moejax.options import in_words, no_option, options_of, plain, problems, require

__all__ = ["DATASETS", "SOURCES", "Dataset", "Examples", "load", "load_of"]

DATASETS = {
    "mnist": Loader(functools.partial(mnist.load, mnist.MNIST), "image", "handwritten digits, 28 × 28", ink=ink.MNIST),
    "fashion_mnist": Loader(
        functools.partial(mnist.load, mnist.FASHION_MNIST),
        "image",
        "pieces of clothing, 28 × 28",
        ink=ink.FASHION_MNIST,
    ),
    "domains": Loader(
        domains.load,
        "image",
        "either or both of these, each image turned or its pixels reordered",
        ink={"mnist": ink.MNIST, "fashion_mnist": ink.FASHION_MNIST},
    ),
    "mnist_tasks": Loader(
        functools.partial(image_tasks.load, mnist.MNIST),
        "image",
        "several questions about each digit: which, is it odd, how much ink, how it leans",
        many_tasks=True,
        ink=ink.MNIST,
    ),
    "mrpc": Loader(mrpc.load, "first", "do two sentences mean the same; each sentence its own tokens"),
    "mrpc_pieces": Loader(mrpc_pieces.load, "pieces", "the same pairs as one text of MiniLM's word pieces"),
    "images": Loader(images.load, "image", "pictures of your own: a folder for each class"),
    "arrays": Loader(arrays.load, "image", "images of your own as arrays in an .npz file"),
    "idx": Loader(idx_files.load, "image", "images in files of MNIST's form: KMNIST, EMNIST, your own"),
    "pairs": Loader(pairs.load, "first", "pairs of texts of your own with a label, in a table"),
    "python": Loader(python_library.load, "tokens", "the sources of Python's own library, to be continued"),
    "text": Loader(text.load, "tokens", "text of your own, to be continued: a file or a folder of files"),
    "clusters": Loader(clusters.load, "patches", "synthetic clusters of patches (Chen et al. 2022)"),
}


def load(name: str, *, seed: int = 0, **options: Any) -> Dataset:
    """Loads a data set: one of `DATASETS`, with the options that its loader declares.

    `dir`: the folder that holds the files (sources "auto" and "dir"), TensorFlow's data_dir ("tfds"), or a saved data
    set of Hugging Face ("hf"). If it or MOEJAX_DATA_DIR is set, it must be right. `seed` draws the validation examples.

    Raises:
      UserError: a name is unknown, a number is none, a file is missing or damaged, or no source works.
    """
    try:
        require("seed", seed, Annotated[int, Field(ge=0)])
    except ValueError as error:
        raise UserError(str(error)) from None
    if not isinstance(name, str) or name not in DATASETS:
        raise UserError(f"--data.name={name} is unknown: choose one of {', '.join(DATASETS)}.")
    there = options_of(DATASETS[name])
    for option in options:
        if option not in there:
            raise UserError(f"--data.{no_option(option, f'--data.name={name}', there)}")
    options = {option: plain(value) for option, value in options.items()}
    for sentence in problems(there, options):
        raise UserError(in_words(sentence, "data."))
    source, folder = options.get("source", "auto"), options.get("dir")
    if folder is not None and source not in ("auto", "dir", "tfds", "hf"):
        raise UserError(f"--data.dir={folder} is not used by --data.source={source}: leave one of the two out.")
    return DATASETS[name](seed=seed, **options)


def load_of(options: Any, seed: int) -> Dataset:
    """The data set that a configuration's section `data` describes, cut to its limits; errors as of `load`."""
    given = {name: getattr(options, name) for name in options_of(DATASETS[options.name])}
    return first(load(options.name, seed=seed, **given), options.limit, options.evaluation_limit)
