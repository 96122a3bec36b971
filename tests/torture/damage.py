"""What can happen to a file: bits flip, it loses its end, is filled with zeros, gone, or holds too much."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

KINDS = ("flip", "cut", "zero", "end", "swap", "more", "empty", "gone")


class Damage(NamedTuple):
    """One damage; `seed` draws the bit, the length and so on."""

    file: str  # within its folder
    kind: str
    seed: int

    def __str__(self) -> str:
        return f"{self.kind} of {self.file}, seed {self.seed}"

    def of(self, content: bytes) -> bytes | None:
        """What becomes of the content; None: the file is gone."""
        return damaged(content, self.kind, np.random.default_rng(self.seed))

    def do(self, folder: Path) -> bool:
        """Damage the file in this folder; False if it is as it was, such as one of zeros that is filled with them."""
        path = folder / self.file
        before = path.read_bytes()
        after = self.of(before)
        path.unlink()  # it may be a link to the one that stays whole
        if after is not None:
            path.write_bytes(after)
        return after != before


def damaged(content: bytes, kind: str, rng: np.random.Generator) -> bytes | None:
    """The content after that."""
    size = len(content)
    at = int(rng.integers(max(size, 1)))
    if kind == "gone":
        return None
    if kind == "empty" or not size:
        return b""
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ 1 << int(rng.integers(8))]) + content[at + 1 :]
    if kind == "cut":
        return content[:at]
    if kind == "zero":
        return b"\0" * size
    if kind == "end":  # a block that never reached the disk
        return content[:at] + b"\0" * (size - at)
    if kind == "swap":  # two parts of it
        return content[at:] + content[:at]
    return content + rng.bytes(int(rng.integers(1, 64)))  # more


def damages(folder: Path, names: list[str], flips: int, others: int, seed: int) -> Iterator[Damage]:
    """To each of the files so many flips, and of every other kind so many, but of those that draw nothing one."""
    rng = np.random.default_rng(seed)
    for name in names:
        for kind in KINDS:
            count = flips if kind == "flip" else 1 if kind in ("zero", "empty", "gone") else others
            yield from (Damage(name, kind, int(rng.integers(2**31))) for _ in range(count))


def files(folder: Path) -> list[str]:
    """All files in a folder, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def linked(folder: Path, copy: Path) -> Path:
    """A copy whose files are links: who damages one takes the link away first."""
    return shutil.copytree(folder, copy, copy_function=os.link)
