"""Runs side by side as figures; a run has one colour in all of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from moejax.comparison.comparison import Comparison, Run
from moejax.report.curves import accuracy_scale, finite, loss_scale, smooth
from moejax.report.record import Record
from moejax.report.style import (
    INK,
    MOST_LAYERS,
    PERCENT,
    expert_colours,
    key,
    panels,
    place,
    portion,
    sheet,
    spread,
)

_DOTS = {
    "text": "dot: bits a byte of the test's text, the less the better",
    "others": "dot: accuracy on test; line: its 95 % interval (Wilson)",
}
UNIFORM = (0, (4, 3))  # dashes of a line that is a reference, not a measurement


def scores(comparison: Comparison) -> Figure | None:
    """A dot for each run and task, with the interval of an accuracy; None if no run was tested."""
    colours = _colours(comparison)
    dots: list[tuple[Run, str, float, tuple[float, float] | None]] = []
    for run in comparison.runs:
        if text := comparison.text_scores.get(run.key):
            dots.append((run, "", text.bits_per_byte, None))
        dots += [(run, s.task, s.accuracy, (s.low, s.high)) for s in comparison.scores.get(run.key, [])]
    if not dots:
        return None
    height = max(0.34 * len(dots), 0.6)
    figure = sheet(height + 0.6, _DOTS["text" if comparison.is_text else "others"])
    names = [f"{run.key}  {_short(run.name)}" + (f", {task}" if task else "") for run, task, _, _ in dots]
    left = 0.5 + 0.068 * max(map(len, names))
    axes = place(figure, left, 0.1, 8.7 - left, height)
    for y, (run, _, score, interval) in enumerate(dots):
        if interval:
            axes.plot(interval, [y, y], color=colours[run.key], lw=2)
        axes.plot([score], [y], color=colours[run.key], lw=0, marker="o", ms=6)
    axes.set(ylim=(len(dots) - 0.5, -0.5), yticks=range(len(dots)), yticklabels=names)
    axes.set_xlabel("bits a byte" if comparison.is_text else "accuracy")
    axes.grid(False, axis="y")
    if not comparison.is_text:
        axes.xaxis.set_major_formatter(PERCENT)
    return figure


def curves(comparison: Comparison) -> Figure | None:
    """Loss and accuracy against the epoch; None if no run recorded any."""
    runs = comparison.runs
    if not any(run.record.train or run.record.validation for run in runs):
        return None
    figure, both = panels(2, 2, 2.9, "thin: training, smoothed; thick: validation")
    colours = _key(figure, comparison)
    scales: dict[str, Callable] = {"loss": loss_scale, "accuracy": accuracy_scale}
    for axes, (quantity, scale) in zip(both, scales.items(), strict=True):
        for run in runs:
            for columns, style in _traces(run.record, quantity):
                axes.plot(columns["epoch"], columns[quantity], color=colours[run.key], **style)
        axes.set(title=quantity.capitalize(), xlabel="epoch", ylabel=quantity)
        scale(axes, np.concatenate([finite(run.record, quantity) for run in runs]))
    validated = [run.record.validation["accuracy"] for run in runs if run.record.validation]
    if validated:  # the last percents are what tells runs apart
        accuracy_scale(both[1], np.concatenate(validated))
    return figure


def load(comparison: Comparison) -> Figure | None:
    """A panel a layer: each run's experts from the busiest to the idlest; None if no run recorded it."""
    loads = {run.key: found for run in comparison.runs if (found := _load(run.record)) is not None}
    if not loads:
        return None
    layers = max(map(len, loads.values()))
    shown = spread(layers, MOST_LAYERS)
    figure, axes = panels(
        len(shown),
        min(2, len(shown)),
        2.0,
        "experts from the busiest to the idlest; dashed: an equal share",
        portion(len(shown), layers, "layers"),
    )
    colours = _key(figure, comparison)
    for panel, layer in zip(axes, shown, strict=True):
        for run_key, of_layers in loads.items():
            if layer < len(of_layers):
                times = np.sort(of_layers[layer])[::-1] * len(of_layers[layer])  # an equal share is 1
                dots: dict[str, Any] = {"marker": "o", "ms": 4} if len(times) <= 16 else {}
                panel.plot(np.arange(1, len(times) + 1), times, color=colours[run_key], lw=1.6, **dots)
        panel.axhline(1, color=INK, lw=1, ls=UNIFORM)
        panel.set(title=f"Layer {layer}", xlabel="expert, by rank", ylabel="equal shares")
        panel.set_ylim(0, 1.08 * max(2.0, *(float(np.nanmax(a * a.shape[1])) for a in loads.values())))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _colours(comparison: Comparison) -> dict[str, np.ndarray]:
    runs = comparison.runs
    return dict(zip((run.key for run in runs), expert_colours(len(runs)), strict=True))


def _key(figure: Figure, comparison: Comparison) -> dict[str, np.ndarray]:
    """The colours, with a legend of them on the figure."""
    colours = _colours(comparison)
    key(figure, np.array(list(colours.values())), "run", list(colours))
    return colours


def _traces(record: Record, quantity: str) -> list[tuple[dict[str, np.ndarray], dict[str, Any]]]:
    """Columns and how they are drawn."""
    found: list[tuple[dict[str, np.ndarray], dict[str, Any]]] = []
    if record.train:
        values = record.train[quantity]
        found.append((record.train | {quantity: smooth(values, max(1, len(values) // 40))}, {"lw": 0.8, "alpha": 0.6}))
    if record.validation:
        found.append((record.validation, {"lw": 1.8, "marker": "o", "ms": 3.5}))
    return found


def _load(record: Record) -> np.ndarray | None:
    """[layer, expert]: each expert's share of the work on test, else at the end of training."""
    try:
        found = np.array(record.test["load"], np.float64)
    except (KeyError, TypeError, ValueError):
        found = record.routing["load"][-1] if record.has("load") else np.empty(0)
    return found if found.ndim == 2 and found.size and not np.isnan(found).all() else None


def _short(name: str) -> str:
    return name if len(name) <= 36 else f"{name[:35]}…"


FIGURES: dict[str, tuple[str, Callable[[Comparison], Figure | None]]] = {
    "accuracy": ("Test scores", scores),
    "curves": ("Loss and accuracy", curves),
    "load": ("Load of the experts", load),
}
