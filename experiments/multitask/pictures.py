"""What gates are worth where tasks conflict: accuracy by how much a task gets of an image, and by how tasks agree."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from experiments.curves import mean_and_range
from experiments.study import Row
from moejax.report.style import DPI, STYLE

MODELS = {  # model: colour, line
    "a network a task": ("#35994a", "--"),
    "a gate a task (MMoE)": ("#3f6fd9", "-"),
    "shared bottom": ("#8f6a4c", ":"),
    "one gate": ("#e35d49", "-"),
    "one gate, top 2": ("#b8860b", "-."),
}


def draw(rows: Sequence[Row], numbers: Mapping[str, float], correlations: Mapping[str, float], file: Path) -> None:
    """Two panels: settings by the numbers that a task gets, and settings by the correlation of their answers."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
        _curves(left, rows, numbers)
        left.set_xscale("log", base=2)
        left.set_xticks(list(numbers.values()), [f"{n:g}" for n in numbers.values()])
        left.set(title="Digit, parity, size and slant", xlabel="numbers that a task gets of an image")
        left.set_ylabel("test accuracy, mean of the tasks, %")
        _curves(right, rows, correlations)
        right.set(title="Two halvings of the digits", xlabel="correlation of their answers")
        left.legend(frameon=False, fontsize=8, loc="lower right")
        figure.savefig(file, dpi=DPI)
        plt.close(figure)


def _curves(panel: Axes, rows: Sequence[Row], places: Mapping[str, float]) -> None:
    """Means over seeds and their range; a setting lies at its place."""
    for model, (colour, line) in MODELS.items():
        found = {
            at: [100 * row["test_accuracy"] for row in rows if (row["setting"], row["model"]) == (setting, model)]
            for setting, at in places.items()
        }
        found = {at: values for at, values in sorted(found.items()) if values}
        if found:
            mean_and_range(panel, list(found), list(found.values()), colour, ls=line, marker="o", ms=4, label=model)
