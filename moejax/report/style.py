"""What all figures share: colours, one for each expert, and panels placed in inches.

Placing panels by arithmetic is three times as fast as a layout engine, and the same on every machine.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, FuncFormatter

PAPER, TILE, RULE, MUTED, INK = "#ffffff", "#f3f5f8", "#d5dae1", "#667080", "#1c2430"
TRAIN, VALIDATION, TEST = "#5f7a9e", "#d1495b", "#1c2430"
# All of medium lightness, so that they can be seen on white and, inverted, on black (see page.css).
EXPERTS = ("#3f6fd9", "#d08c00", "#e35d49", "#35994a", "#9659dd", "#1f9e9e", "#8f6a4c", "#d9569b")
AMOUNT = LinearSegmentedColormap.from_list("amount", [TILE, "#d6e2f3", "#7fa6d8", "#2f62a8", "#14305c"])
DEPTH = LinearSegmentedColormap.from_list("depth", ["#8fb3a5", "#2f7d6b", "#0c3b36"])

THOUSANDS = EngFormatter(sep="")
PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.4g}%")

WIDTH = 9.0  # inches, of every figure
HEADING = 0.75  # inches, above everything else
BESIDE_KEY = 85  # letters of remarks that leave room for a key; more stand in a second line
DPI = 150
MOST_LAYERS = 4  # panels of one figure
MOST_EXPERTS = 8  # rows or columns of pictures

STYLE = {
    "text.parse_math": False,  # a class may be called $5
    "font.size": 9,
    "text.color": INK,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.titley": 1.0,  # fixed: looking for a free place costs a second layout of all ticks
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceff3",
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "lines.solid_capstyle": "round",
}


def expert_colours(count: int) -> np.ndarray:
    """float64 [count, 3]: each expert's colour in all figures; beyond eight experts, from a continuous map."""
    if count <= len(EXPERTS):
        return np.array([to_rgb(colour) for colour in EXPERTS[:count]])
    return 0.85 * colormaps["turbo"](np.linspace(0.06, 0.94, count))[:, :3]


def layer_colours(count: int) -> np.ndarray:
    """float64 [count, 3]: light at the input, dark at the output."""
    return DEPTH(np.linspace(0, 1, count) if count > 1 else np.array([0.5]))[:, :3]


def spread(count: int, most: int) -> np.ndarray:
    """int [≤ most]: evenly spaced indices of a list, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def portion(shown: int, count: int, what: str) -> str:
    """`6 of 12 layers` if some are left out, else an empty string."""
    return f"{shown} of {count} {what}" if shown < count else ""


def sheet(height: float, *remarks: str) -> Figure:
    """An empty figure of `height` inches below a heading with room for the title, and remarks on what is shown."""
    figure = Figure(figsize=(WIDTH, height + HEADING))
    lines = ["", ""]
    for remark in filter(None, remarks):
        place = int(bool(lines[1] or (lines[0] and len(lines[0] + remark) > BESIDE_KEY)))
        lines[place] += f"  ·  {remark}" if lines[place] else remark
    for y, line in zip((0.2, 0.04), lines, strict=True):
        figure.text(0.1, height + y, line, size=8.5, color=MUTED, transform=figure.dpi_scale_trans)
    return figure


def entitle(figure: Figure, title: str) -> None:
    """Write the title into the topmost 0.36 inches, which the page crops, since it has the title as a heading."""
    y = figure.get_figheight() - 0.3
    figure.text(0.1, y, title, size=12, weight="bold", transform=figure.dpi_scale_trans)


def place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at so many inches from the left edge and from the bottom of the heading."""
    whole = figure.get_figheight()
    return figure.add_axes((left / WIDTH, (whole - HEADING - top - height) / whole, width / WIDTH, height / whole))


def panels(count: int, columns: int, height: float, *remarks: str) -> tuple[Figure, list[Axes]]:
    """`count` equal panels of `height` inches in rows of `columns`, with room for a panel's title and axis labels."""
    pitch = height + 0.85
    figure = sheet(pitch * math.ceil(count / columns), *remarks)
    width = (WIDTH - 0.2) / columns
    return figure, [
        place(figure, 0.1 + width * (i % columns) + 0.58, 0.32 + pitch * (i // columns), width - 0.78, height)
        for i in range(count)
    ]


def key(figure: Figure, colours: np.ndarray, what: str, names: Sequence[str] = ()) -> None:
    """A legend right of the remarks: numbered or named colours; beyond eight, one strip from the first to the last."""
    apart, names = len(colours) <= len(EXPERTS), names or [str(i) for i in range(len(colours))]
    pitch = 0.32 if apart else 1.9 / len(colours)
    y = figure.get_figheight() - HEADING + 0.2
    x = WIDTH - 0.15 - pitch * len(colours) - (0 if apart else 0.2)

    def label(x: float, text: str, align: str) -> None:
        figure.text(x, y, text, size=8.5, color=MUTED, ha=align, transform=figure.dpi_scale_trans)

    label(x - 0.1, what if apart else f"{what} {names[0]}", "right")
    for i, colour in enumerate(colours):
        size = 0.13 if apart else pitch
        box = Rectangle((x + i * pitch, y - 0.015), size, 0.13, color=colour, lw=0, transform=figure.dpi_scale_trans)
        figure.add_artist(box)
        if apart:
            label(x + i * pitch + 0.165, names[i], "left")
    if not apart:
        label(WIDTH - 0.15, names[-1], "right")


def bare(axes: Axes) -> None:
    """Remove frame, ticks and grid."""
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def thinned(axis_labels: Sequence[str], most: int) -> tuple[np.ndarray, list[str]]:
    """Positions and names of at most `most` evenly spaced ticks."""
    positions = np.arange(0, len(axis_labels), math.ceil(len(axis_labels) / most))
    return positions, [axis_labels[i] for i in positions]
