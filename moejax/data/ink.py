"""A picture of any size as MNIST's images are: light ink on a dark ground, scaled into a box, centred.

LeCun et al. 1998: digits are scaled into 20 × 20 pixels, their sides' ratio kept, and put with their centre of mass at
the centre of 28 × 28. Xiao et al. 2017 (Fashion-MNIST): the longer side becomes 28 pixels, the shorter one is filled
up on both sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image

from moejax.errors import UserError

_SIDE = 28
_FAINTEST = 24  # of 255: a picture without a stronger contrast has no ink
_EDGE = 0.25  # of the strongest ink: what counts as ink when its edges are looked for
_FAR = 64  # of 255: how far a ground may be from those learnt from
_USUAL = (0.03, 0.4)  # mean of an image, of 1: nearly all of MNIST's; Fashion-MNIST's fill more


@dataclass(frozen=True)
class Ink:
    """How a data set's images were made.

    Attributes:
      box: pixels of the longer side of what is drawn.
      by_mass: the centre of mass is at the image's centre, not the middle of the box.
    """

    box: int
    by_mass: bool

    def image_of(self, picture: UInt8[ndarray, "i j"], where: str) -> tuple[UInt8[ndarray, "28 28"], list[str]]:
        """The picture as such an image, and sentences on what was done to it or looks odd.

        One of 28 × 28 pixels on a dark ground is taken as it is. UserError, naming `where`, if nothing is drawn on
        another.
        """
        ground = float(np.median(edges(picture)))
        if picture.shape == (_SIDE, _SIDE) and ground < 128:
            return picture, self._doubts(picture)
        ink, notes = picture.astype(np.float32) - ground, []
        if ground >= 128:
            ink, notes = -ink, ["dark ink on light paper was inverted"]
        ink = ink.clip(0)
        if ink.max(initial=0) < _FAINTEST:
            raise UserError(f"{where} has nothing drawn on it: its pixels are all about {ground:.0f} of 255.")
        image = self._placed(_scaled(_cut(ink / ink.max()), self.box))
        return image, [*notes, *self._doubts(image)]

    def _placed(self, drawn: Float[ndarray, "i j"]) -> UInt8[ndarray, "28 28"]:
        """What is drawn, in the middle of an image."""
        weights = drawn if self.by_mass else np.ones_like(drawn)
        image = np.zeros((_SIDE, _SIDE), np.float32)
        starts = []
        for axis, size in enumerate(drawn.shape):
            mass = weights.sum(1 - axis)
            centre = (mass * (np.arange(size) + 0.5)).sum() / mass.sum()
            starts.append(int(np.clip(np.floor(_SIDE / 2 - centre + 0.5), 0, _SIDE - size)))
        (top, left), (rows, columns) = starts, drawn.shape
        image[top : top + rows, left : left + columns] = drawn
        return (255 * image / image.max()).round().astype(np.uint8)

    def _doubts(self, image: UInt8[ndarray, "28 28"]) -> list[str]:
        share, (least, most) = image.mean() / 255, _USUAL
        if not self.by_mass or least <= share <= most:
            return []
        amount = "little" if share < least else "much"
        return [f"it looks unlike the images learnt from: {share:.0%} of it is ink, which is {amount} (MNIST: 13%)"]


def edges(image: UInt8[ndarray, "i j *c"]) -> UInt8[ndarray, " n *c"]:
    """An image's outermost pixels, which show the ground that something is drawn on."""
    return np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])


def grounds(images: UInt8[ndarray, "n i j *c"]) -> list[float]:
    """Between which values, of 255, the mean of the edges lies of nearly all of these images; looks at a hundred."""
    few = images[np.unique(np.linspace(0, len(images) - 1, min(100, len(images))).astype(int))]
    return np.quantile([edges(image).mean() for image in few], [0.05, 0.95]).round(1).tolist()


def doubts_of_ground(image: UInt8[ndarray, "i j *c"], learnt: Sequence[float]) -> list[str]:
    """A sentence if the ground is far from that of the images learnt from, which is between these two values."""
    ground, (least, most) = float(edges(image).mean()), learnt
    if least - _FAR <= ground <= most + _FAR:
        return []
    shade = "light" if ground > most else "dark"
    return [
        f"its edges are {shade}, {ground:.0f} of 255, but those of the images learnt from {least:.0f} to {most:.0f};"
        " it may have to be inverted"
    ]


MNIST = Ink(box=20, by_mass=True)
FASHION_MNIST = Ink(box=28, by_mass=False)


def _cut(ink: Float[ndarray, "i j"]) -> Float[ndarray, "i2 j2"]:
    """Its smallest part that holds all of the ink."""
    rows, columns = (np.flatnonzero((ink >= _EDGE).any(axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _scaled(ink: Float[ndarray, "i j"], longest: int) -> Float[ndarray, "i2 j2"]:
    """With so many pixels on the longer side; shrunk by averaging, so that thin strokes stay."""
    factor = longest / max(ink.shape)
    rows, columns = (max(1, round(n * factor)) for n in ink.shape)
    return np.asarray(Image.fromarray(ink).resize((columns, rows), Image.Resampling.BILINEAR)).clip(0, 1)
