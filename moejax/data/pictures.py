"""A picture file as an array: of any format, size and mode that Pillow reads.

Turned upright as its camera says; what is transparent is white paper; 16 bits a channel are made 8. Resized by
averaging (bilinear, with the support that shrinking needs), the sides' ratio given up.
"""

import io
from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field

from moejax.data.library_errors import said_as
from moejax.errors import UserError

ENDINGS = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"))
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # of these endings; others may start a program
MOST_PIXELS = 2**26  # 67 million: a few megabytes of a file may unpack to far more
_MOST_BYTES = 2**28
Side = Annotated[int | None, Field(ge=4, le=512)]  # pixels
_ORIENTATION = 0x0112  # the tag of Exif; from 5 on, rows and columns are exchanged
_DEEP = ("I", "I;16", "I;16L", "I;16B")
_DEEP_WHITE = 4096  # of 65,536: as white as nothing is


def load(path: Path) -> bytes:
    """The content of a picture file; UserError if it cannot be read or is far too long."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise UserError(f"{path} is no file: leave it out.")
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise UserError(f"{path} is too long for a picture ({size:,} bytes): leave it out.")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): mend that, or leave it out.") from error


def shape_of(content: bytes, where: str) -> tuple[int, int]:
    """Rows and columns of a picture, by its header alone; UserError if it is none."""
    with _opened(content, where) as picture, said_as(_unreadable(where)):
        turned = picture.getexif().get(_ORIENTATION, 1) >= 5
        return picture.size if turned else picture.size[::-1]


def decode(content: bytes, where: str, shape: tuple[int, ...]) -> UInt8[ndarray, "i j *c"]:
    """The picture as an array of that shape, (i, j) for a grey one or (i, j, 3) in colour.

    Raises:
      UserError: it is no picture, too large, or of a mode that has no range; the sentence names `where`.
    """
    with _opened(content, where) as picture, said_as(_unreadable(where)):
        picture = _of_bytes(ImageOps.exif_transpose(picture), where)
        picture = picture.convert("RGB" if len(shape) == 3 else "L")
        rows, columns = shape[:2]
        if picture.size != (columns, rows):
            picture = picture.resize((columns, rows), Image.Resampling.BILINEAR)
        return np.asarray(picture)


def resized(images: UInt8[ndarray, "n i j *c"], side: int) -> UInt8[ndarray, "n side side *c"]:
    """Images as squares of so many pixels a side."""
    small = np.empty((len(images), side, side, *images.shape[3:]), np.uint8)
    for image, out in zip(images, small, strict=True):
        out[...] = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
    return small


def is_grey(image: UInt8[ndarray, "i j 3"]) -> bool:
    """Whether all channels are the same."""
    return bool((image == image[..., :1]).all())


def _opened(content: bytes, where: str) -> Image.Image:
    if not content:
        raise UserError(f"{where} is empty: give a picture, or leave it out.")
    with said_as(_unreadable(where)):
        try:
            picture = Image.open(io.BytesIO(content), formats=_FORMATS)
        except UnidentifiedImageError as error:
            raise ValueError(f"it is none of {', '.join(_FORMATS)}") from error
        except Image.DecompressionBombError as error:
            raise UserError(f"{where} has more than {MOST_PIXELS:,} pixels: make it smaller.") from error
    if picture.width * picture.height > MOST_PIXELS:
        raise UserError(
            f"{where} has {picture.width:,} × {picture.height:,} pixels, more than {MOST_PIXELS:,}: make it smaller."
        )
    return picture


def _of_bytes(picture: Image.Image, where: str) -> Image.Image:
    """The same on white paper, in a mode of 8 bits a channel."""
    if picture.mode == "F":
        raise UserError(
            f"{where} holds floating-point numbers, of which white is unknown: save it with 8 bits a pixel."
        )
    if picture.mode in _DEEP:
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() >= 2**16:
            raise UserError(f"{where} holds numbers beyond 16 bits, of which white is unknown: save it with 8 bits.")
        if 0 < values.max() < _DEEP_WHITE:
            raise UserError(
                f"{where} holds numbers up to {values.max():,} in 16 bits, where white is 65,535, and would be all but"
                " black: bring its white there, or save it with 8 bits a pixel."
            )
        return Image.fromarray((values // 257).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture


def _unreadable(where: str):
    return lambda problem: f"{where} cannot be read as a picture ({problem}): leave it out, or save it again."
