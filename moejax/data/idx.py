"""IDX, the format of the MNIST files: a magic number, the sizes of the axes, then the bytes, all big-endian.

    0 0 8 r | size of axis 1 … size of axis r (uint32 each) | uint8 values, last axis fastest

8 stands for uint8 (the only type these data sets use), r for the rank: 2051 starts a file of images [n, rows, columns],
2049 one of labels [n]. Source: the format's description on the MNIST home page (LeCun, Cortes, Burges, 1998).
"""

import math
import struct

import numpy as np

from moejax.errors import UserError

UINT8 = 0x0800  # the two upper bytes are zero, the third is the type, the fourth the rank


def encode(array: np.ndarray) -> bytes:
    """The IDX file that holds a uint8 array of any rank."""
    return struct.pack(f">{1 + array.ndim}I", UINT8 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def size(shape: tuple[int, ...]) -> int:
    """The number of bytes of the IDX file that holds a uint8 array of this shape."""
    return 4 * (1 + len(shape)) + math.prod(shape)


def promised(head: bytes, rank: int) -> tuple[int, ...]:
    """The shape that the first bytes of an IDX file of this rank promise; zeros where they are none, for `decode`."""
    fits = len(head) >= 4 * (1 + rank) and struct.unpack_from(">I", head)[0] == UINT8 + rank
    return struct.unpack_from(f">{rank}I", head, 4) if fits else (0,) * rank


def decode(content: bytes, shape: tuple[int, ...], where: str) -> np.ndarray:
    """The uint8 array of shape `shape` that an IDX file holds (a read-only view of `content`).

    Args:
      content: the whole file, unpacked.
      shape: the shape it must have.
      where: the file's name, for messages.

    Raises:
      UserError: the content is empty, not IDX, of another rank or shape, cut short, or longer than it says.
    """
    expected = UINT8 + len(shape)
    if len(content) < 4:
        raise UserError(f"{where} is too short to be an IDX file ({len(content)} bytes): download it again.")
    (magic,) = struct.unpack_from(">I", content)
    if magic & ~0xFF != UINT8:
        raise UserError(
            f"{where} is not an IDX file of bytes (magic number {magic}, expected {expected}): download it again."
        )
    if magic != expected:
        raise UserError(
            f"{where} holds an array of rank {magic - UINT8}, expected rank {len(shape)} "
            f"(magic number {magic}, expected {expected}): check that images and labels were not swapped."
        )
    header = 4 * (1 + len(shape))
    if len(content) < header:
        raise UserError(f"{where} is truncated inside its header ({len(content)} bytes): download it again.")
    found = struct.unpack_from(f">{len(shape)}I", content, 4)
    if found != shape:
        raise UserError(
            f"{where} holds an array of shape {_by(found)}, expected {_by(shape)}: "
            f"check that train and test files were not swapped, or read another set by --data.name=idx."
        )
    if len(content) != size(shape):
        problem = "is truncated" if len(content) < size(shape) else "has bytes after its end"
        raise UserError(f"{where} {problem} ({len(content)} bytes, expected {size(shape)}): download it again.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
