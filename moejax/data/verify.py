"""Know a published file by its content, packed or not, and turn it into a value.

    raw bytes → unpack (gzip or not) → decode → compare sha256 → value

The steps go from the most telling error to the least: "truncated" helps more than "wrong checksum".
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Callable
from typing import Any

from moejax.errors import UserError


@dataclasses.dataclass(frozen=True)
class File:
    """A published file.

    Attributes:
      name: its name without `.gz`.
      size: bytes, unpacked; nothing longer is ever unpacked.
      sha256: of the unpacked content, so that `x`, `x.gz` and `x.gz` packed again by somebody else are all accepted.
      decode: (content, where) → value; raises UserError about the file `where`. It meets damaged content too, to say
        what is wrong with it, so it is our own code. None: the value is the content, for a library, which reads only
        what is accepted.
      aliases: other names that it is met under, without `.gz`.
    """

    name: str
    size: int
    sha256: str
    decode: Callable[[bytes, str], Any] | None = None
    aliases: tuple[str, ...] = ()

    @property
    def limit(self) -> int:
        """The most bytes that are read of it: packing may add a little, never much."""
        return self.size + 2**16


def packed(raw: bytes) -> bool:
    """Whether this is gzip, told by its first two bytes."""
    return raw.startswith(b"\x1f\x8b")


def beginning(raw: bytes, size: int) -> bytes:
    """The first bytes of the content of a file that may be gzip; fewer if it is short or damaged."""
    if not packed(raw):
        return raw[:size]
    try:
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(raw, size)
    except zlib.error:
        return b""


def unpack(raw: bytes, size: int, where: str) -> bytes:
    """The content of a file that may be gzip; at most `size` bytes are unpacked.

    Raises:
      UserError: it is empty, or the gzip stream is corrupted, cut short, too long, or followed by other bytes.
    """
    if not raw:
        raise UserError(f"{where} is empty: download it again.")
    if not packed(raw):
        return raw
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # | 16: a gzip header and checksum around the stream
    try:
        content = stream.decompress(raw, size + 1)  # a byte too many, so that a longer content shows
    except zlib.error as error:
        raise UserError(f"{where} is a corrupted gzip file ({error}): download it again.") from error
    if len(content) > size:
        raise UserError(f"{where} unpacks to more than the expected {size} bytes: download it again.")
    if not stream.eof:
        raise UserError(f"{where} is a truncated gzip file ({len(raw)} bytes): download it again.")
    if stream.unused_data:
        raise UserError(
            f"{where} has {len(stream.unused_data)} bytes after the end of its gzip data: download it again."
        )
    return content


def accept(raw: bytes, file: File, where: str) -> Any:
    """What the bytes of `file` decode to, packed or not, once they are known to be the published ones.

    Raises:
      UserError: they are not; the sentence names `where`.
    """
    content = unpack(raw, file.size, where)
    if file.decode is None and len(content) != file.size:
        raise UserError(
            f"{where} is not a whole copy of the published file ({len(content)} bytes, expected {file.size}): "
            f"download it again."
        )
    value = content if file.decode is None else file.decode(content, where)
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise UserError(
            f"{where} can be read but is corrupted or not the published file (sha256 of its unpacked content {found}, "
            f"expected {file.sha256}): download it again."
        )
    return value
