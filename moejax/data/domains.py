"""Images in domains: MNIST, Fashion-MNIST or both, each image changed in the way of its domain.

    rotations       domain r: turned by r · `angle` degrees
    permutations    domain r: its pixels in the r-th of some fixed random orders

Domain 0 is the images as they are. A network that is large enough learns all domains at once; a small one does better
with an expert for each. With two domains, 30° and the label `changed` it is CIFAR-10-Rotate of Chen et al. 2022
("Towards Understanding Mixture of Experts in Deep Learning", section 6.2), but for the images.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from pydantic import Field

from moejax.data import mnist
from moejax.data.dataset import Dataset, Dir, Examples, Source, Validation, concatenate, hold_out, rows, take
from moejax.errors import UserError
from moejax.options import Needs

SETS = {
    "mnist": (mnist.MNIST,),
    "fashion_mnist": (mnist.FASHION_MNIST,),
    "both": (mnist.MNIST, mnist.FASHION_MNIST),
}
CLASSES = 10  # of each set
Images = UInt8[ndarray, "n i j"]
Change = Callable[[Images], Images]


def load(
    of: Literal[*SETS] = "mnist",
    change: Literal["rotations", "permutations"] = "rotations",
    domains: Annotated[int, Field(ge=1, le=64)] = 4,
    angle: Annotated[float | None, Field(gt=0, lt=360), Needs("change", ("rotations",))] = None,
    label: Literal["class", "changed"] = "class",
    copies: Annotated[int, Field(ge=1, le=64)] = 1,
    source: Source = "auto",
    dir: Dir = None,
    validation: Validation = 5000,
    seed: int = 0,
) -> Dataset:
    """Loads the images as their own loader does; the seed draws each image's domain, and the orders of pixels.

    Args:
      of: which images; of both, clothes have labels and domains of their own.
      change: how domains differ: images are turned, or their pixels are in another order.
      domains: domains of a set of images; 1 leaves all as they are.
      angle: degrees from one domain to the next; none: all domains make a full turn.
      label: what is to be learnt: what an image shows, or whether it was changed.
      copies: how often each training image is there, each time in a domain that is drawn for it.

    Returns:
      train, validation, test: {"image": uint8 [n, 28, 28], "label", "domain": int32 [n]}. The domain is what experts
      may divide among them. Where it would be the label (`changed`), it is what the image shows.

    Raises:
      UserError: as the images' own loader; and where no image would be changed, or two domains would be one.
    """
    if label == "changed" and domains == 1:
        raise UserError("--data.label=changed needs images that are changed: choose --data.domains of at least 2.")
    if angle is not None:
        _check_angle(angle, domains)
    parts = [mnist.load(images, source, dir, validation=0, seed=seed) for images in SETS[of]]
    if change == "rotations":
        changes = [turn(r * (360 / domains if angle is None else angle)) for r in range(domains)]
    else:
        changes = [reorder(order) for order in orders(domains, seed)]

    def everything(split: str) -> Examples:
        return mixed([getattr(part, split) for part in parts], np.random.default_rng([seed, 0]))

    train = everything("train")
    whole = Dataset(
        name=f"{of} in {domains} {change}",
        source=parts[0].source,
        origin=" and ".join(part.origin for part in parts),
        sha256={f"{part.name}/{file}": digest for part in parts for file, digest in part.sha256.items()},
        train=train,
        validation=take(train, slice(0)),
        test=everything("test"),
        num_classes=2 if label == "changed" else CLASSES * len(parts),
        notes=tuple(note for part in parts for note in part.notes),
    )
    held_out = hold_out(whole, validation, seed)  # before there are copies: no image is in two splits

    def changed(split: str, stream: int, copies: int = 1) -> Examples:
        examples, rng = getattr(held_out, split), np.random.default_rng([seed, stream])
        return in_domains(take(examples, np.tile(np.arange(rows(examples)), copies)), changes, label, rng)

    return dataclasses.replace(
        held_out, train=changed("train", 1, copies), validation=changed("validation", 2), test=changed("test", 3)
    )


def _check_angle(angle: float, domains: int) -> None:
    if domains == 1:
        raise UserError(f"--data.angle={angle:g} turns nothing in one domain: choose --data.domains of at least 2.")
    turns = [round(r * angle % 360, 6) % 360 for r in range(domains)]
    if len(apart := set(turns)) < domains:
        raise UserError(
            f"--data.angle={angle:g} turns images in {len(apart)} ways, not in {domains}: choose --data.domains"
            f" {len(apart)}, or another angle."
        )


def number_of_domains(options: Any) -> int:
    """How many there are with such options (`of`, `domains`, `label`)."""
    sets = len(SETS[options.of])
    return sets * (CLASSES if options.label == "changed" else options.domains)


def mixed(sets: Sequence[Examples], rng: np.random.Generator) -> Examples:
    """The examples of the sets, in random order if there are several; `set` is which one an example is of."""
    one, *others = [examples | {"set": np.full(rows(examples), i, np.int32)} for i, examples in enumerate(sets)]
    if not others:
        return one
    all_of_them = functools.reduce(concatenate, others, one)
    return take(all_of_them, rng.permutation(rows(all_of_them)))


def in_domains(examples: Examples, changes: Sequence[Change], label: str, rng: np.random.Generator) -> Examples:
    """Each image changed in one of the ways, drawn for it; and the label and the domain that `load` describes."""
    image = np.empty_like(examples["image"])
    shows = examples["label"] + CLASSES * examples["set"]
    way = rng.integers(len(changes), size=len(image))
    for r, change in enumerate(changes):
        image[way == r] = change(examples["image"][way == r])
    if label == "changed":
        return {"image": image, "label": (way > 0).astype(np.int32), "domain": shows}
    return {"image": image, "label": shows, "domain": (way + len(changes) * examples["set"]).astype(np.int32)}


def turn(degrees: float) -> Change:
    """Turns images counter-clockwise about their centre: bilinear, zeros from outside, exact for quarter turns."""
    cos, sin = (np.round(f(np.deg2rad(degrees)), 12) for f in (np.cos, np.sin))

    def turned(images: Images) -> Images:
        _, height, width = images.shape
        i, j = np.mgrid[:height, :width] - np.array([height - 1, width - 1]).reshape(2, 1, 1) / 2
        # Where each pixel comes from, in an image with a border of zeros.
        row, column = cos * i + sin * j + (height + 1) / 2, cos * j - sin * i + (width + 1) / 2
        bordered = np.pad(images, ((0, 0), (1, 1), (1, 1)))
        turned = np.zeros(images.shape, np.float32)
        for r in (np.floor(row), np.floor(row) + 1):
            for c in (np.floor(column), np.floor(column) + 1):
                weight = (1 - np.abs(row - r)) * (1 - np.abs(column - c))
                if weight.any():
                    near = np.clip(r, 0, height + 1).astype(int), np.clip(c, 0, width + 1).astype(int)
                    turned += weight.astype(np.float32) * bordered[:, *near]
        return np.rint(turned).astype(np.uint8)

    return turned


def orders(number: int, seed: int) -> list[ndarray]:
    """Orders of an image's pixels: the first as they are, the others drawn one after another by the seed."""
    rng, pixels = np.random.default_rng([seed, 4]), 28 * 28
    return [np.arange(pixels), *(rng.permutation(pixels) for _ in range(number - 1))]


def reorder(order: ndarray) -> Change:
    """Puts the pixels of images in another order."""
    return lambda images: images.reshape(len(images), order.size)[:, order].reshape(images.shape)
