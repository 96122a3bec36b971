"""Images of one's own as arrays in one .npz file, named as Keras or as MedMNIST name them.

x, y                                                        not split
x_train, y_train, x_test, y_test, perhaps x_val, y_val      split; also train_images, train_labels, …
"""

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path as File

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from moejax.data.dataset import Dataset, Path, Validation, check_room, own_path
from moejax.data.labels import numbered
from moejax.data.library_errors import said_as
from moejax.data.pictures import Side, resized
from moejax.data.splits import NAMES, TestSize, dataset_of
from moejax.errors import UserError

_SIDES = 4, 512  # pixels, from and to
_DARK = 64  # what is no brighter than this is hardly on a scale to 255

Splits = dict[str, ndarray]


def load(
    dir: Path = None, size: Side = None, test_size: TestSize = 0.2, validation: Validation = 5000, seed: int = 0
) -> Dataset:
    """Loads images and labels from a file that `numpy.savez` wrote.

    Args:
      dir: the .npz file, with x and y, or x_train, y_train, x_test and y_test. Images are [n, rows, columns], with 1 or
        3 channels after or before these, of bytes or of numbers from 0 to 1 or to 255; labels are words or numbers.
      size: images become squares of so many pixels a side; none: they stay as they are.

    Returns:
      train, validation, test: {"image": uint8 [n, i, j] or [n, i, j, 3], "label": int32 [n]}.

    Raises:
      UserError: there is no such file, or what is wrong with its arrays. Nothing in it is ever executed.
    """
    path = own_path(dir, "arrays", "an .npz file")
    arrays = read(path)
    images, labels = by_split(arrays, str(path))
    for split, x in images.items():
        if not (x.ndim and labels[split].ndim):
            raise UserError(f"{path} ({split}) has one number in place of images or labels: give an array of each.")
        if len(x) != len(labels[split]):
            raise UserError(f"{path} ({split}) has {len(x)} images and {len(labels[split])} labels: give each one.")
    numbers, classes = numbered(labels, str(path))
    pixels, notes = as_bytes({split: channels_last(x, f"{path} ({split})") for split, x in images.items()}, str(path))
    read_of_it = [id(array) for part in (images, labels) for array in part.values()]
    if unused := [name for name, array in arrays.items() if id(array) not in read_of_it]:
        notes = [*notes, f"Not used of the file: {', '.join(unused)}."]
    if size is not None:
        pixels = {split: resized(x, size) for split, x in pixels.items()}
    check_sides(pixels["train"].shape, str(path))
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return dataset_of(
        "arrays",
        {split: {"image": x, "label": numbers[split]} for split, x in pixels.items()},
        classes,
        origin=str(path),
        sha256={path.name: sha256},
        validation=validation,
        test_size=test_size,
        seed=seed,
        notes=notes,
    )


def read(path: File) -> Splits:
    """The arrays of an .npz file by name; UserError if it is none, holds more than arrays, or is too large unpacked."""
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "is not there"
        raise UserError(f"--data.dir={path} {problem}: name an .npz file (pictures in folders are --data.name=images).")

    def sentence(problem: str) -> str:
        return f"{path} cannot be read as an .npz file of plain arrays ({problem}): write it with numpy.savez."

    with said_as(sentence):
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        check_room(size, f"The arrays of {path}", "give a part of them")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}


def by_split(arrays: Mapping[str, ndarray], where: str) -> tuple[Splits, Splits]:
    """Images and labels by split; UserError if there are none to train on, or one of two is missing."""
    there = {name.lower(): array for name, array in arrays.items()}
    images, labels = {}, {}
    for split, names in NAMES.items():
        pairs = [(f"x_{name}", f"y_{name}") for name in names] + [
            (f"{name}_images", f"{name}_labels") for name in names
        ]
        for x, y in pairs + [("x", "y")] * (split == "train"):
            if (x in there) != (y in there):
                has, lacks = (x, y) if x in there else (y, x)
                raise UserError(f"{where} has {has}, but no {lacks}: add it.")
            if x in there and split not in images:
                images[split], labels[split] = there[x], there[y]
    if "train" not in images:
        found = ", ".join(arrays) or "nothing"
        raise UserError(f"{where} holds {found}: name the arrays x and y, or x_train, y_train, x_test and y_test.")
    return images, labels


def channels_last(x: ndarray, where: str) -> ndarray:
    """Images as [n, rows, columns], or with 3 channels behind; UserError if they have another shape."""
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] not in (1, 3):
        x = np.moveaxis(x, 1, 3)
    if x.ndim == 4 and x.shape[3] == 1:
        x = x[..., 0]
    if x.ndim == 2:
        side = round(x.shape[1] ** 0.5)
        fix = f"x.reshape(-1, {side}, {side})" if side**2 == x.shape[1] else "x.reshape(-1, rows, columns)"
        raise UserError(f"{where} has flat images of shape {x.shape}: give them their rows and columns, {fix}.")
    if x.ndim not in (3, 4) or x.shape[3:] not in ((), (3,)) or 0 in x.shape[1:3]:
        raise UserError(f"{where} has images of shape {x.shape}, expected [n, rows, columns] or [n, rows, columns, 3].")
    return x


def check_sides(shape: tuple[int, ...], where: str) -> None:
    """UserError if images of that shape, [n, rows, columns, ...], are far too small or too large."""
    least, most = _SIDES
    if not all(least <= side <= most for side in shape[1:3]):
        raise UserError(
            f"{where} has images of {shape[1]} × {shape[2]} pixels, expected {least} to {most} a side: resize them by"
            " --data.size."
        )


def as_bytes(images: Splits, where: str) -> tuple[dict[str, UInt8[ndarray, "n ..."]], list[str]]:
    """Images as bytes on one scale for all splits, and what was done to them in sentences.

    Raises:
      UserError: they differ in shape, hold NaN or infinity, or numbers of which white is not known.
    """
    if len({x.shape[1:] for x in images.values()}) > 1:
        shapes = ", ".join(f"{split} {x.shape[1:]}" for split, x in images.items())
        raise UserError(f"{where} has images of several shapes ({shapes}): give all the same.")
    if wrong := [x.dtype for x in images.values() if x.dtype.kind not in "biuf"]:
        raise UserError(f"{where} has images of type {wrong[0]}, expected numbers: bytes, or 0 to 1.")
    for split, x in images.items():
        if x.dtype.kind == "f" and not (finite := np.isfinite(x).all(axis=tuple(range(1, x.ndim)))).all():
            raise UserError(
                f"{where} ({split}) has NaN or infinity in image {finite.argmin()}: mend it or leave it out."
            )
    full = {split: x for split, x in images.items() if x.size}
    low, high = min((x.min() for x in full.values()), default=0), max((x.max() for x in full.values()), default=0)
    whole = all(x.dtype.kind in "biu" for x in images.values())
    if low < 0 or high > 255 or (not whole and 1 < high < _DARK):
        raise UserError(
            f"{where} has images of numbers from {low:g} to {high:g}, expected 0 to 1, or 0 to 255: bring them there,"
            f" as by {'(x - x.min()) / (x.max() - x.min())' if low < 0 else 'x / x.max()'}."
        )
    small = [split for split, x in full.items() if x.max() <= 1 and x.max() > x.min()]
    if high > 1 and small:
        large = next(split for split, x in full.items() if x.max() > 1)
        raise UserError(
            f"{where} has numbers from 0 to {full[small[0]].max():g} in the {small[0]} split, and up to"
            f" {full[large].max():g} in the {large} split: bring all splits to one scale."
        )
    if high <= 1:
        note = ["The images' numbers, 0 to 1, are made 0 to 255."]
        return {split: np.rint(x * np.float32(255)).astype(np.uint8) for split, x in images.items()}, note
    note = [f"The brightest pixel of all images is {high:g} of 255."] if high < _DARK else []
    return {split: np.rint(x).astype(np.uint8) for split, x in images.items()}, note
