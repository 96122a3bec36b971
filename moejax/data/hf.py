"""Splits through the library `datasets`: from the Hugging Face hub, or from a local copy."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moejax.data import web
from moejax.data.dataset import Examples, integers
from moejax.data.library_errors import importing, needing, said_as
from moejax.errors import UserError


def images(rows: Any) -> Examples:
    """One split of images of `datasets` as two arrays, uint8 [n, 28, 28] and int32 [n]; ValueError if it is no such."""
    columns = rows[:]  # all images decoded in one go: twice as fast as one by one
    image = np.stack([np.asarray(image) for image in columns["image"]])
    if any(getattr(image, "mode", "L") != "L" for image in columns["image"]) or not _bytes(image):
        raise ValueError("its images are not grey ones of one byte a pixel")
    return {"image": image.astype(np.uint8), "label": integers(columns["label"], "its labels")}


def _bytes(array: np.ndarray) -> bool:
    """Whether these are whole numbers from 0 to 255, of whatever type (a column that is no image gives lists)."""
    return array.dtype.kind in "iu" and bool(((array >= 0) & (array <= 255)).all())


def read(
    name: str,
    directory: str | None,
    arrays: Callable[[Any], Examples] = images,
    columns: Sequence[str] = ("image", "label"),
    *,
    subset: str | None = None,
) -> tuple[dict[str, Examples], str]:
    """Every split of a data set, and where they came from.

    Args:
      name: on the hub, e.g. "ylecun/mnist".
      directory: a local copy instead: what `save_to_disk` wrote, or parquet files as on the hub.
      arrays: makes one split of its rows.
      columns: that it reads, for the error.
      subset: which of the data sets under that name.

    Raises:
      UserError: the hub cannot be reached, or what is there cannot be read.
    """
    with importing("datasets"), needing("hf"):
        import datasets

    hub_name = (name,) if subset is None else (name, subset)
    origin = f"Hugging Face {' '.join(hub_name)}"
    if directory is not None:
        origin = os.path.expanduser(directory)
        if not os.path.isdir(origin):
            raise UserError(f"--data.dir={directory} is not a folder: name one with a copy of {name}.")
    elif not datasets.config.HF_HUB_OFFLINE:
        _probe_hub(name)

    def sentence(problem: str) -> str:
        return (
            f"--data.source=hf cannot read {origin} ({problem}): check that it holds {name} with the columns "
            f"{', '.join(columns[:-1])} and {columns[-1]}, or use --data.source=auto."
        )

    with said_as(sentence):  # whatever it is: two libraries and a network lie below
        saved = directory is not None and (Path(origin) / "dataset_dict.json").exists()
        loaded = (
            datasets.load_from_disk(origin) if saved else datasets.load_dataset(*((origin,) if directory else hub_name))
        )
        splits = {str(split): arrays(rows) for split, rows in loaded.items()}
    return splits, origin


def _probe_hub(name: str) -> None:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        web.probe(endpoint)
    except ConnectionError as error:
        raise UserError(
            f"--data.source=hf cannot fetch {name} ({error}): pass a local copy as --data.dir, or set HF_HUB_OFFLINE=1 "
            f"to use what is in the library's own cache."
        ) from error
