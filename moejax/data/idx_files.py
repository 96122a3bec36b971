"""Other people's data in MNIST's form: IDX files of any number of images, of any size and with any labels.

    train-images-idx3-ubyte, train-labels-idx1-ubyte         as of MNIST, Fashion-MNIST and KMNIST, packed (.gz) or not
    t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte           (or test-…)
    emnist-letters-train-images-idx3-ubyte, …                with something before: `data.prefix`

What was published once and can be checked has its own data set: `mnist`, `fashion_mnist`.
"""

import hashlib
import re
from pathlib import Path as Folder

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from moejax.data import idx
from moejax.data.dataset import Dataset, Path, Validation, own_path
from moejax.data.find import read
from moejax.data.labels import numbered
from moejax.data.splits import TestSize, dataset_of
from moejax.data.verify import beginning, unpack
from moejax.errors import UserError

LARGEST = 2**31  # bytes of a file, packed or not
_UNKNOWN = 2**24  # bytes of what is no IDX file, to say so
_NAME = re.compile(r"(.*?)-?(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(\.gz)?", re.IGNORECASE)
_SPLITS = {"train": "train", "t10k": "test", "test": "test"}

Files = dict[tuple[str, str], Folder]  # by split, and what is in it, images or labels


def load(
    dir: Path = None,
    prefix: str | None = None,
    transpose: bool = False,
    test_size: TestSize = 0.2,
    validation: Validation = 5000,
    seed: int = 0,
) -> Dataset:
    """Loads images and labels from IDX files.

    Args:
      dir: folder with train-images-idx3-ubyte, train-labels-idx1-ubyte and, if there are, t10k-… or test-…, packed or
        not.
      prefix: what comes before these names, where a folder has several sets, such as emnist-letters.
      transpose: exchange rows and columns, as EMNIST's files need.

    Returns:
      train, validation, test: {"image": uint8 [n, i, j], "label": int32 [n]}.

    Raises:
      UserError: about the folder or one of the files.
    """
    root = own_path(dir, "idx", "the folder of the files")
    if not root.is_dir():
        raise UserError(f"--data.dir={dir} is not a folder: name the one that holds the IDX files.")
    files, chosen = files_of(root, prefix)
    arrays, sha256 = {}, {}
    for (split, what), path in files.items():
        arrays[split, what], sha256[path.name] = array_of(path, rank=3 if what == "images" else 1)
    splits = {split: (arrays[split, "images"], arrays[split, "labels"]) for split, what in files if what == "images"}
    for split, (x, y) in splits.items():
        if len(x) != len(y):
            raise UserError(
                f"{root} ({split}) has {len(x)} images and {len(y)} labels: put the files of one set there."
            )
        if x.shape[1:] != splits["train"][0].shape[1:]:
            raise UserError(f"{root} has images of several sizes to train and to test: put the files of one set there.")
    numbers, classes = numbered({split: y for split, (_, y) in splits.items()}, str(root))
    on_their_side = chosen.lower().startswith("emnist") and not transpose
    hint = "EMNIST's files hold images on their side: --data.transpose true sets them up."
    return dataset_of(
        "idx",
        {
            split: {"image": np.ascontiguousarray(x.swapaxes(1, 2)) if transpose else x, "label": numbers[split]}
            for split, (x, _) in splits.items()
        },
        classes,
        origin=str(root),
        sha256=sha256,
        validation=validation,
        test_size=test_size,
        seed=seed,
        notes=[hint] * on_their_side,
    )


def files_of(root: Folder, prefix: str | None) -> tuple[Files, str]:
    """The files of one set in a folder, and what comes before their names.

    UserError if none is there, several are, or one of images or labels lacks the other.
    """
    sets: dict[str, Files] = {}
    for path in sorted(root.iterdir()):
        if match := _NAME.fullmatch(path.name):  # of one both packed and not, the packed one, which comes later
            before, split, what, _ = match.groups()
            files, part = sets.setdefault(before, {}), (_SPLITS[split.lower()], what.lower())
            if part in files and files[part].name.removesuffix(".gz") != path.name.removesuffix(".gz"):
                raise UserError(f"{root} has {files[part].name} and {path.name} for one split: move one away.")
            files[part] = path
    if prefix is not None:
        prefix = prefix.removesuffix("-")
    if prefix not in sets and (prefix is not None or len(sets) != 1):
        there = f"has those of {', '.join(map(repr, sets))}: name one with --data.prefix" if sets else "has none"
        wanted = "train-images-idx3-ubyte(.gz)" if prefix is None else f"{prefix}-train-images-idx3-ubyte(.gz)"
        raise UserError(f"{root} should hold the files of one set, {wanted} and its siblings, but {there}.")
    chosen = next(iter(sets)) if prefix is None else prefix
    files = sets[chosen]
    for split in {"train": None} | {split: None for split, _ in files}:
        for what in ("images", "labels"):
            if (split, what) not in files:
                raise UserError(f"{root} lacks the {what} of the {split} split: put the file beside the others.")
    return files, chosen


def array_of(path: Folder, rank: int) -> tuple[UInt8[ndarray, "..."], str]:
    """The array of a file, as long as it says, and the sha256 of its unpacked content; UserError if it is damaged."""
    raw = read(path, LARGEST)
    shape = idx.promised(beginning(raw, 4 * (1 + rank)), rank)
    if idx.size(shape) > LARGEST:
        raise UserError(f"{path} says that it holds {idx.size(shape):,} bytes, more than {LARGEST:,}: give a part.")
    content = unpack(raw, idx.size(shape) if all(shape) else _UNKNOWN, str(path))
    return idx.decode(content, shape, str(path)), hashlib.sha256(content).hexdigest()
