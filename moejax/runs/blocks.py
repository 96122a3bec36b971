"""Images and maps of weights in letters, for a terminal."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Num
from numpy import ndarray

SHADES = " ░▒▓█"
NOWHERE = "·"  # a place of a map without weight, so that its edges are seen
_GAP = 2  # columns between two blocks
_EXPERTS = 8  # that are drawn


def shaded(values: Num[ndarray, "r c"], most: float) -> list[str]:
    """A map as lines, a letter a place; `most` is full black."""
    level = np.ceil(np.clip(values / max(most, 1e-12), 0, 1) * (len(SHADES) - 1) - 0.5).astype(int)
    return ["".join(SHADES[n] for n in row) for row in level]


def picture(image: Num[ndarray, "i j *c"], columns: int = 28) -> list[str]:
    """An image of 0 to 255 as lines of about so many letters, each the mean of what it covers."""
    grey = np.asarray(image, np.float64).reshape(*image.shape[:2], -1).mean(-1)
    wide = -(-grey.shape[1] // columns)
    high = 2 * wide
    rows, across = -(-grey.shape[0] // high), -(-grey.shape[1] // wide)
    padded = np.full((rows * high, across * wide), np.nan)
    padded[: grey.shape[0], : grey.shape[1]] = grey
    cells = np.nanmean(padded.reshape(rows, high, across, wide), axis=(1, 3))
    return shaded(cells, 255.0)


def beside(blocks: Iterable[tuple[str, Sequence[str]]], width: int) -> list[str]:
    """Blocks of lines under their titles, as many side by side as fit into so many columns."""
    lines: list[str] = []
    row: list[list[str]] = []
    for title, block in blocks:
        span = max(map(len, [title, *block]))
        cell = [line.ljust(span) for line in [title, *block]]
        if row and sum(len(c[0]) + _GAP for c in row) + span > width:
            lines += [*_joined(row), ""]
            row = []
        row.append(cell)
    return [*lines, *_joined(row)]


def by_expert(maps: Float[ndarray, "e r c"], shares: Float[ndarray, " e"], width: int) -> list[str]:
    """A block for each expert, of many for those of the largest shares: where it looks, all on one scale."""
    shown = np.sort(np.argsort(-shares, kind="stable")[:_EXPERTS])
    titles = [f"expert {expert} {shares[expert]:.0%}" for expert in shown]
    wide = np.repeat(maps[shown], 2, axis=2)  # a letter is twice as high as wide
    drawn = ([line.replace(" ", NOWHERE) for line in shaded(of_one, float(maps.max()))] for of_one in wide)
    left = len(shares) - len(shown)
    rest = [f"and {left} more expert{'s' * (left > 1)}, {1 - shares[shown].sum():.0%} together"] if left else []
    return [*beside(zip(titles, drawn, strict=True), width), *rest]


def _joined(row: list[list[str]]) -> list[str]:
    height = max(map(len, row), default=0)
    filled = [[*cell, *[" " * len(cell[0])] * (height - len(cell))] for cell in row]
    return [(" " * _GAP).join(parts).rstrip() for parts in zip(*filled, strict=True)]
