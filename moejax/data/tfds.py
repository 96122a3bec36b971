"""Splits through TensorFlow Datasets, without TensorFlow where the data set is prepared already.

Its examples come in the order of its own shuffle, so the rows that a seed holds out are not those of the other sources.
"""

import importlib.util
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from moejax.data import web
from moejax.data.dataset import Examples
from moejax.data.library_errors import needing, said_as
from moejax.errors import UserError

Rows = Iterable[Mapping[str, Any]]


def images(rows: Rows) -> Examples:
    """One split of images as two arrays, uint8 [n, 28, 28] and int32 [n]; images come as [28, 28, 1]."""
    examples = list(rows)
    return {
        "image": np.stack([example["image"][..., 0] for example in examples]),
        "label": np.asarray([example["label"] for example in examples], np.int32),
    }


def read(
    name: str,
    directory: str | None,
    arrays: Callable[[Rows], Examples] = images,
    *,
    host: str = "https://storage.googleapis.com",
    tensorflow: bool = True,
) -> tuple[dict[str, Examples], str]:
    """Every split of a data set, and where they came from.

    Args:
      name: of the builder, e.g. "mnist".
      directory: its data_dir, ~/tensorflow_datasets by default. Prepared there if it is not yet.
      arrays: makes one split of its rows.
      host: what preparing it connects to.
      tensorflow: whether preparing it needs TensorFlow.

    Raises:
      UserError: the library is incomplete, or the data set can be neither read nor prepared.
    """
    with needing("tfds"):
        import tensorflow_datasets

        if name.startswith("glue/"):
            import tensorflow_datasets.text.glue  # a data source knows its builder only once that is imported

    logging.getLogger("absl").setLevel(logging.ERROR)  # it warns of what is said in a sentence below

    def sentence(problem: str) -> str:
        return (
            f"--data.source=tfds cannot read {name} from {directory or 'its default folder'} ({problem}): "
            f"prepare it again with file_format='array_record', or use --data.source=auto."
        )

    with said_as(sentence), needing("tfds"):  # whatever it is: a large library and a network lie below
        builder = tensorflow_datasets.builder(name, data_dir=directory, file_format="array_record")
        if not builder.is_prepared():
            _check_preparable(name, str(builder.data_dir), host, tensorflow)
            builder.download_and_prepare()
        splits = {split: arrays(rows) for split, rows in builder.as_data_source().items()}
    return splits, f"TensorFlow Datasets {builder.info.full_name} in {builder.data_dir}"


def _check_preparable(name: str, folder: str, host: str, tensorflow: bool) -> None:
    """Raises UserError if preparing is bound to fail; the library itself would retry for minutes first."""
    if tensorflow and importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"--data.source=tfds finds no {name} prepared in {folder}, and preparing it needs TensorFlow: "
            "pip install tensorflow."
        )
    try:
        web.probe(host)
    except ConnectionError as error:
        raise UserError(
            f"--data.source=tfds finds no {name} prepared in {folder} and cannot fetch it ({error}): "
            f"name a prepared folder as --data.dir."
        ) from error
