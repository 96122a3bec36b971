"""A line of means over seeds, and between which values they lie."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes


def mean_and_range(panel: Axes, x: Sequence[float], values: Sequence[Sequence[float]], color: str, **line: Any) -> None:
    """At each place of x: the mean of its values, on a line, and a band from the least to the greatest."""
    panel.plot(x, [np.mean(of_one) for of_one in values], color=color, **line)
    panel.fill_between(x, [min(v) for v in values], [max(v) for v in values], color=color, alpha=0.15, lw=0)
