"""A run's activations as pictures: which expert answered which label, after each epoch and batch by batch."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy import ndarray

from moejax.report.style import AMOUNT, DPI, INK, MUTED, STYLE, VALIDATION, bare
from moejax.report.tables import MISTAKES

COLUMNS = 5


class Activations(NamedTuple):
    """Validation examples of one epoch, or of one batch of it."""

    title: str
    gates: ndarray  # example, expert: its share of the output
    label: ndarray  # example
    prediction: ndarray  # example


def read(file: Path) -> tuple[Activations, ndarray]:
    """The table of one epoch, and the batch of each of its examples."""
    with file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    experts = 1 + max(int(row["Expert"]) for row in rows)
    gates = np.array([float(row["Probability"]) for row in rows]).reshape(-1, experts)
    label, prediction, batch = (
        np.array([int(row[name]) for row in rows[::experts]]) for name in ("Label", "Prediction", "Batch")
    )
    return Activations(f"epoch {rows[0]['Epoch']}", gates, label, prediction), batch


def draw(run: Path, file: Path) -> None:
    """One page: five epochs on the left, five batches of the last epoch on the right of a gap."""
    files = sorted((run / "activations").glob("epoch_*.csv"), key=lambda file: int(file.stem.split("_")[1]))
    epochs = [read(file) for file in (files[i] for i in _spaced(len(files)))]
    last, batch = epochs[-1]
    batches = [
        Activations(f"batch {b}", last.gates[batch == b], last.label[batch == b], last.prediction[batch == b])
        for b in _spaced(batch.max() + 1)
    ]
    shown = [*(activations for activations, _ in epochs), *batches]
    widths = [*[1] * len(epochs), 0.15, *[1] * len(batches)]
    with plt.rc_context(STYLE):
        size = (1.4 * sum(widths) + 0.6, 7.4)
        figure, axes = plt.subplots(
            len(ROWS), len(widths), figsize=size, width_ratios=widths, sharey="row", layout="constrained"
        )
        for row, (name, panel) in zip(axes, ROWS.items(), strict=True):
            row[len(epochs)].set_visible(False)
            panels = [*row[: len(epochs)], *row[len(epochs) + 1 :]]
            panels[0].set_ylabel(name)
            for place, activations in zip(panels, shown, strict=True):
                panel(place, activations)
        for place, activations in zip([*axes[0, : len(epochs)], *axes[0, len(epochs) + 1 :]], shown, strict=True):
            place.set_title(activations.title)
        figure.savefig(file, dpi=DPI * 0.8)
        plt.close(figure)


def _heat(axes: Axes, a: Activations) -> None:
    labels = 1 + a.label.max()
    mean = np.stack([a.gates[a.label == y].mean(0) for y in range(labels)])
    _table(axes, mean, AMOUNT, 1.0)


def _usage(axes: Axes, a: Activations) -> None:
    axes.bar(np.arange(a.gates.shape[1]), a.gates.mean(0), color="#5f7a9e", width=0.8)
    axes.axhline(1 / a.gates.shape[1], color=VALIDATION, lw=0.8, ls="--")
    axes.set_xticks([0, a.gates.shape[1] - 1])


def _distribution(axes: Axes, a: Activations) -> None:
    chosen, floor = a.gates.argmax(1), np.zeros(a.gates.shape[1])
    for y in range(1 + a.label.max()):
        counts = np.bincount(chosen[a.label == y], minlength=a.gates.shape[1]) / len(a.label)
        axes.bar(np.arange(len(counts)), counts, bottom=floor, color=plt.get_cmap("tab10")(y % 10), width=0.8)
        floor += counts
    axes.set_xticks([0, a.gates.shape[1] - 1])


def _confusion(axes: Axes, a: Activations) -> None:
    labels = 1 + max(a.label.max(), a.prediction.max())
    counts = np.zeros((labels, labels), int)
    np.add.at(counts, (a.label, a.prediction), 1)
    wrong = counts * (1 - np.eye(labels, dtype=int))
    _table(axes, wrong / max(wrong.sum(), 1), MISTAKES, 0.15)
    axes.set_xlabel(f"{wrong.sum():,} wrong", color=INK)


def _table(axes: Axes, values: ndarray, colours: object, highest: float) -> None:
    bare(axes)
    axes.imshow(values, cmap=colours, vmin=0, vmax=highest, interpolation="nearest", aspect="auto")
    axes.set(xticks=[0, values.shape[1] - 1], yticks=[0, len(values) - 1])
    axes.tick_params(labelcolor=MUTED)


def _spaced(count: int) -> list[int]:
    return sorted({round(i) for i in np.linspace(0, count - 1, COLUMNS)})


ROWS: dict[str, Callable[[Axes, Activations], None]] = {
    "label × expert:\nmean gate": _heat,
    "expert usage:\nmean gate": _usage,
    "labels of each\nexpert (first choice)": _distribution,
    "label × prediction:\nmistakes": _confusion,
}
