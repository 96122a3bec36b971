"""Pictures as arrays: grey ones in ink, expert weights as colours over them, and sheets of many.

Eighty small images are drawn as one array; eighty axes would take seconds.
"""

import numpy as np
from matplotlib.colors import to_rgb

from moejax.report.style import INK, TILE

PAPER = np.array(to_rgb(TILE))


def ink(images: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """uint8 [..., row, column, 1 or 3] → float64 [..., row, column, 3]; below strength 1 fainter, nearer to paper.

    A grey image on a dark ground becomes strokes of ink, dark where it is bright; others stay as they are.
    """
    as_it_is = PAPER + strength * (images / 255.0 - PAPER)
    if images.shape[-1] == 3:
        return as_it_is
    edges = images[..., [0, -1], :, 0], images[..., [0, -1], 0]
    border = np.concatenate([edge.reshape(*images.shape[:-3], -1) for edge in edges], axis=-1)
    light = np.median(border, axis=-1)[..., None, None, None] > 127
    return np.where(light, as_it_is, PAPER + strength * images / 255.0 * (np.array(to_rgb(INK)) - PAPER))


def tint(pictures: np.ndarray, colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colour pictures, their strokes still visible.

    `pictures` float [..., row, column, 3], `colours` float [..., 3] that broadcast, `alpha` float [..., row, column] in
    0..1.
    """
    return pictures * (1 - alpha[..., None] * (1 - colours))


def stretch(weights: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """float [..., r, c] → [..., rows, columns]: linear interpolation between the centres of the places."""
    return _hats(rows, weights.shape[-2]) @ weights @ _hats(columns, weights.shape[-1]).T


def blocks(values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """[..., r, c] → [..., rows, columns]: each place repeated as a block, for values one cannot average."""
    r, c = values.shape[-2:]
    return values[..., np.arange(rows) * r // rows, :][..., np.arange(columns) * c // columns]


def mosaic(pictures: np.ndarray, gap: int = 2) -> np.ndarray:
    """float [i, j, row, column, 3] → [i·(row+gap), j·(column+gap), 3]: a sheet of pictures with white between."""
    padded = np.pad(pictures, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=1.0)
    i, j, rows, columns, _ = padded.shape
    return padded.transpose(0, 2, 1, 3, 4).reshape(i * rows, j * columns, 3)


def _hats(points: int, places: int) -> np.ndarray:
    """float64 [points, places]: the weight of each place at each point; rows sum to 1."""
    at = ((np.arange(points) + 0.5) * places / points - 0.5).clip(0, places - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(places)))
