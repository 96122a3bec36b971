"""Pictures of one's own: a folder a class, as torchvision's ImageFolder and Hugging Face's imagefolder have it.

FOLDER/cat/1.png          or, split already,   FOLDER/train/cat/1.png
FOLDER/dog/2.jpg                               FOLDER/validation/…  (valid, val, dev)
                                               FOLDER/test/…
"""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path as Folder
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from moejax.data import pictures
from moejax.data.dataset import Dataset, Path, Validation, check_room, own_path
from moejax.data.labels import numbered
from moejax.data.splits import NAMES, TestSize, dataset_of
from moejax.errors import UserError

_LEFT, _USUAL = range(20, 65), 28  # pixels a side: of pictures left as they are, and of others
_TOLD = 5  # faults of so many pictures are told, each in a sentence


def load(
    dir: Path = None,
    size: pictures.Side = None,
    color_mode: Literal["auto", "grayscale", "rgb"] = "auto",
    test_size: TestSize = 0.2,
    validation: Validation = 5000,
    seed: int = 0,
) -> Dataset:
    """Loads pictures, whose classes are the folders that they are in, by name.

    Args:
      dir: folder with a folder for each class, or with train/ and perhaps validation/ and test/ that have these.
      size: pictures become squares of so many pixels a side; none: they stay as they are if all have one size of
        20 to 64 pixels a side, and become 28 × 28 otherwise.
      color_mode: grey or in colour; auto: in colour if any picture has colour.

    Returns:
      train, validation, test: {"image": uint8 [n, i, j] or [n, i, j, 3], "label": int32 [n]}.

    Raises:
      UserError: about the folder, its splits and classes, or each picture that cannot be read.
    """
    root = folder_of(dir)
    files: dict[str, list[tuple[Folder, str]]] = {}
    others: list[Folder] = []
    for split, folder in splits_of(root).items():
        files[split] = [(path, name) for name, paths in _classes(folder, others) for path in paths]
    labels, classes = numbered({split: [name for _, name in of_split] for split, of_split in files.items()}, str(root))
    paths = [path for of_split in files.values() for path, _ in of_split]
    image, digests, resized = _read(paths, size, color_mode)
    image_of = dict(zip(files, np.split(image, np.cumsum([len(y) for y in labels.values()])[:-1]), strict=True))
    return dataset_of(
        "images",
        {split: {"image": image_of[split], "label": label} for split, label in labels.items()},
        classes,
        origin=str(root),
        sha256={f"all {len(paths):,} pictures": _digest(root, paths, digests)},
        validation=validation,
        test_size=test_size,
        seed=seed,
        notes=[*_left_out(others), *resized],
    )


def folder_of(dir: str | None) -> Folder:
    """The folder that the user named; UserError if it is none."""
    root = own_path(dir, "images", "the folder of the pictures")
    if root.is_file():
        raise UserError(f"--data.dir={dir} is a file: name a folder with a folder for each class (unpack an archive).")
    if not root.is_dir():
        raise UserError(f"--data.dir={dir} is not there: name a folder with a folder for each class.")
    return root


def splits_of(root: Folder) -> dict[str, Folder]:
    """The folder of each split, "train" and those that are there; `root` itself where it is not split.

    A folder with the name of a split is one if it holds folders; else it is a class of that name.
    """
    folders = _folders(root)
    named = {s: [f for f in folders if f.name.lower() in names and _folders(f)] for s, names in NAMES.items()}
    if not any(named.values()):
        all_names = {name for names in NAMES.values() for name in names}
        if folders and all(folder.name.lower() in all_names for folder in folders):
            raise UserError(f"{folders[-1]} holds no folder for each class: put the pictures of a class into one.")
        return {"train": root}
    for split, found in named.items():
        if len(found) > 1:
            raise UserError(f"{root} has both {found[0].name}/ and {found[1].name}/, one split: join the two.")
        if not found and split == "train":
            raise UserError(f"{root} has {next(filter(None, named.values()))[0].name}/, but no train/: add it.")
    return {split: found[0] for split, found in named.items() if found}


def _classes(folder: Folder, others: list[Folder]) -> Iterator[tuple[str, list[Folder]]]:
    """Each class with its pictures, in order; what is no picture by its name goes to `others`."""
    classes = _folders(folder)
    if not classes:
        raise UserError(
            f"{folder} has no folder for each class: put the pictures into folders named by their class, such as"
            f" {folder / 'cat'} and {folder / 'dog'}."
        )
    others += [path for path in sorted(folder.iterdir()) if path.is_file() and _visible(path)]
    for of_class in classes:
        inside = (Folder(at) / file for at, _, names in os.walk(of_class) for file in names)
        found = sorted(path for path in inside if all(map(_visible, map(Folder, path.relative_to(of_class).parts))))
        paths = [path for path in found if path.suffix.lower() in pictures.ENDINGS]
        others += [path for path in found if path.suffix.lower() not in pictures.ENDINGS]
        if not paths:
            raise UserError(f"{of_class} holds no picture: put those of the class there, or remove the folder.")
        yield of_class.name, paths


def _folders(folder: Folder) -> list[Folder]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and _visible(path))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): change its permissions.") from error


def _visible(path: Folder) -> bool:
    return not path.name.startswith(".") and path.name not in ("__MACOSX", "Thumbs.db", "desktop.ini")


def _read(
    paths: Sequence[Folder], size: int | None, color_mode: str
) -> tuple[UInt8[ndarray, "n i j *c"], list[bytes], list[str]]:
    """All pictures as one array, the sha256 of each file, and what to tell of their size."""

    def shape(path: Folder) -> tuple[int, int]:
        return pictures.shape_of(pictures.load(path), str(path))

    shapes = Counter(_all(shape, paths))
    most, _ = shapes.most_common(1)[0]
    leave = size is None and len(shapes) == 1 and all(side in _LEFT for side in most)
    rows, columns = most if leave else (size or _USUAL, size or _USUAL)
    shape_of_all = (len(paths), rows, columns, *([] if color_mode == "grayscale" else [3]))
    check_room(
        math.prod(shape_of_all), f"{len(paths):,} pictures of {rows} × {columns}", "make them smaller, --data.size"
    )
    images = np.empty(shape_of_all, np.uint8)

    def read(numbered: tuple[int, Folder]) -> bytes:
        number, path = numbered
        content = pictures.load(path)
        images[number] = pictures.decode(content, str(path), images.shape[1:])
        return hashlib.sha256(content).digest()

    digests = _all(read, list(enumerate(paths)))
    if color_mode == "auto" and all(map(pictures.is_grey, images)):
        images = np.ascontiguousarray(images[..., 0])
    if set(shapes) == {(rows, columns)}:
        return images, digests, []
    said = f"of {most[0]} × {most[1]} pixels" if len(shapes) == 1 else f"of {len(shapes):,} sizes"
    return images, digests, [f"The pictures, {said}, are resized to {rows} × {columns} (--data.size)."]


def _all(function, values: Sequence) -> list:
    """The function of all values, in threads; UserError with the sentences of those that raise it."""

    def tried(value):
        try:
            return function(value)
        except UserError as error:
            return error

    with ThreadPoolExecutor() as pool:
        results = list(pool.map(tried, values))
    if faults := [str(result) for result in results if isinstance(result, UserError)]:
        more = [f"{len(faults) - _TOLD:,} more cannot be read either."] if len(faults) > _TOLD else []
        raise UserError(*faults[:_TOLD], *more)
    return results


def _digest(root: Folder, paths: Sequence[Folder], digests: Sequence[bytes]) -> str:
    """The sha256 of all names and contents."""
    whole = hashlib.sha256()
    for path, content in zip(paths, digests, strict=True):
        whole.update(f"{path.relative_to(root).as_posix()}\0".encode(errors="surrogateescape") + content)
    return whole.hexdigest()


def _left_out(others: Sequence[Folder]) -> list[str]:
    if not others:
        return []
    return [f"Left out, no picture by its name or in no class: {others[0]}" + _and_more(len(others) - 1)]


def _and_more(count: int) -> str:
    return f" and {count:,} more." if count else "."
