"""Tables by label: which expert sees which label, and which label is predicted for which."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from moejax.report.record import Record, shares
from moejax.report.style import (
    AMOUNT,
    INK,
    MOST_LAYERS,
    MUTED,
    PAPER,
    PERCENT,
    RULE,
    VALIDATION,
    WIDTH,
    bare,
    place,
    portion,
    sheet,
    spread,
    thinned,
)

MISTAKES = LinearSegmentedColormap.from_list("mistakes", ["#ffffff", "#f8c9c4", "#e0655f", "#8f1d2c"])


def labels(record: Record) -> Figure:
    """A table for each layer: the percentage of a label's routed weight that each expert got."""
    share = shares(record.routing["label_expert"])
    layers, rows, experts = share.shape
    wide = experts > 10
    shown = spread(layers, 3 if wide else MOST_LAYERS)
    columns = 1 if wide or len(shown) == 1 else 2
    names, gutter = _row_names(record, rows)
    # A lone narrow table would be stretched into bars: a cell is at most 0.62 inches wide.
    width = min((8.8 - 0.75) / columns - gutter - 0.15, 0.62 * experts)
    height = min(max(0.27 * rows, 0.8), 4.5)
    pitch = height + 0.85
    figure = sheet(
        pitch * math.ceil(len(shown) / columns),
        "per cent of a label's routed weight; rows add up to 100",
        portion(len(shown), layers, "layers"),
    )
    highest = max(float(share.max()), 1e-12)
    for i, layer in enumerate(shown):
        left = 0.1 + gutter + (i % columns) * (width + gutter + 0.15)
        axes = place(figure, left, 0.32 + pitch * (i // columns), width, height)
        _heat(axes, share[layer], AMOUNT, highest)
        if width / experts >= 0.2 and height / rows >= 0.15:
            _values(axes, [[f"{100 * value:.0f}" for value in row] for row in share[layer]], share[layer] / highest)
        axes.set(title=record.layer_name(layer), xlabel="expert", ylabel="label")
        axes.set_xticks(*thinned([str(e) for e in range(experts)], int(width / 0.2)))
        axes.set_yticks(*thinned(names, int(height / 0.14)))
    edge = 0.1 + columns * (width + gutter + 0.15)
    _scale(figure, place(figure, edge, 0.32, 0.12, height), highest)
    return figure


def confusion(record: Record) -> Figure:
    """True labels against predictions on the test examples, and each label's share of mistakes."""
    counts = record.routing["confusion"].astype(np.int64)
    size = len(counts)
    names, gutter = _row_names(record, size)
    side = min(max(0.42 * size, 1.6), 4.6)
    below = 0.065 * longest if (longest := max(map(len, names))) > 3 else 0.0  # inches of names that stand upright
    totals, right = counts.sum(1), np.diag(counts)
    wrong = counts - np.diag(right)
    figure = sheet(
        side + 0.9 + below,
        f"{wrong.sum():,} of {counts.sum():,} wrong",
        "grey: right; red: mistakes, stronger where there are more",
    )
    axes = place(figure, 0.1 + gutter, 0.32, side, side)
    most = max(1.0, float(wrong.max()))
    _heat(axes, wrong, MISTAKES, most)
    for i in range(size):
        axes.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, color="#e9eef4", lw=0))
    if size <= 20:
        cells = [[f"{count}" if count else "" for count in row] for row in counts]
        _values(axes, cells, wrong / most, size=9.0 if size <= 12 else 6.5)
    positions, shown = thinned(names, int(side / 0.2))
    axes.set(title="Counts", xlabel="predicted", ylabel="true label", yticks=positions, yticklabels=shown)
    axes.set_xticks(positions, shown, rotation=90 if below else 0)

    bars = place(figure, 0.1 + gutter + side + 0.55, 0.32, WIDTH - 1.1 - gutter - side, side)
    share = wrong.sum(1) / np.maximum(totals, 1)
    bars.barh(np.arange(size), share, height=0.62, color=VALIDATION)
    bars.set(title="Mistakes by label", xlabel="of the label's examples", ylim=(size - 0.5, -0.5), yticks=[])
    bars.set_xlim(0, 1.25 * max(float(share.max()), 1e-3))
    bars.xaxis.set_major_formatter(PERCENT)
    if size <= 20:
        for i, (errors, total) in enumerate(zip(wrong.sum(1), totals, strict=True)):
            bars.annotate(
                f"{errors:,} of {total:,}", (share[i], i), (4, 0), textcoords="offset points", va="center", color=MUTED
            )
    return figure


def _heat(axes: Axes, values: np.ndarray, colours: Colormap, highest: float) -> None:
    """A table of coloured cells with white rules between them."""
    bare(axes)
    axes.imshow(values, cmap=colours, vmin=0, vmax=highest, aspect="auto", interpolation="nearest")
    rows, columns = values.shape
    if columns <= 32:
        axes.vlines(np.arange(0.5, columns - 1), -0.5, rows - 0.5, color=PAPER, lw=1)
        axes.hlines(np.arange(0.5, rows - 1), -0.5, columns - 0.5, color=PAPER, lw=1)


def _values(axes: Axes, cells: list[list[str]], depth: np.ndarray, size: float = 8.0) -> None:
    """Text in each cell, white where the cell is dark; `depth` float [row, column] in 0..1."""
    for i, row in enumerate(cells):
        for j, text in enumerate(row):
            if text:
                colour = PAPER if depth[i, j] > 0.55 else INK
                axes.text(j, i, text, ha="center", va="center_baseline", size=size, color=colour)


def _scale(figure: Figure, axes: Axes, highest: float) -> None:
    mappable = ScalarMappable(Normalize(0, highest), AMOUNT)
    bar = figure.colorbar(mappable, cax=axes, format=PERCENT)
    bar.set_label("share of the label's weight", color=MUTED)
    bar.outline.set_edgecolor(RULE)
    axes.grid(False)


def _row_names(record: Record, count: int) -> tuple[list[str], float]:
    """The labels, and the inches they need at the left of a table."""
    names = [record.label_name(label) for label in range(count)]
    return names, 0.45 + 0.065 * max(map(len, names))
