"""The plot of a sweep: the test score against the first option that varies, a line for each value of the others."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from moejax.report.drawing import png
from moejax.report.style import PERCENT, STYLE, expert_colours, panels
from moejax.sweep.plan import Sweep
from moejax.sweep.results import Row, rows, score

_HEADINGS = {"test_accuracy": "Test accuracy", "test_bits_per_byte": "Bits a byte on test"}


def plot(sweep: Sweep) -> bytes | None:
    """A PNG; None if nothing was tested yet, or nothing but the seed varies."""
    name = score(rows(sweep))
    found = [row for row in rows(sweep) if row.measured(name)]
    if not found or not sweep.varied:
        return None
    along, *others = sweep.varied
    lines: dict[str, list[Row]] = {}
    for row in found:
        lines.setdefault(", ".join(f"{name} {row.values[name]}" for name in others), []).append(row)
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = panels(1, 1, 3.4, "dots: runs; line: their mean, with its standard deviation over the seeds")
        at = _places(axes, list(sweep.axes[along]))
        for (label, of_line), colour in zip(lines.items(), expert_colours(len(lines)), strict=True):
            _line(axes, at, [(row.values[along], row.measured(name)) for row in of_line], label, colour)
        heading = _HEADINGS[name]
        axes.set(xlabel=along, ylabel=heading.lower())
        if name == "test_accuracy":
            axes.yaxis.set_major_formatter(PERCENT)
        if others:
            axes.legend(frameon=False, labelcolor="linecolor", fontsize=8.5)
        return png(figure, f"{heading} by {along}")


def _places(axes: Axes, values: list[str]) -> dict[str, float]:
    """Where each value stands: numbers by size, by their logarithm where they span a factor of 8; names in a row."""
    numbers = _numbers(values)
    if numbers is None:
        at = dict(zip(values, map(float, range(len(values))), strict=True))
        axes.set_xlim(-0.5, len(values) - 0.5)
    else:
        at = dict(zip(values, numbers, strict=True))
        if min(numbers) > 0 and max(numbers) >= 8 * min(numbers):
            axes.set_xscale("log")
            axes.minorticks_off()
    axes.set_xticks(list(at.values()), list(at))
    return at


def _numbers(values: list[str]) -> list[float] | None:
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _line(axes: Axes, at: dict[str, float], of_line: Sequence[tuple], label: str, colour: np.ndarray) -> None:
    """`of_line`: values of the option, and what the runs of each measured."""
    measured = {at[value]: numbers for value, numbers in of_line}
    x = sorted(measured)
    mean = [float(np.mean(measured[place])) for place in x]
    deviation = [float(np.std(measured[place], ddof=1)) if len(measured[place]) > 1 else 0.0 for place in x]
    axes.errorbar(x, mean, yerr=deviation, color=colour, lw=1.6, capsize=3, label=label)
    for place in x:
        axes.plot([place] * len(measured[place]), measured[place], color=colour, lw=0, marker="o", ms=4, alpha=0.6)
