"""Loss and accuracy against the step."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from moejax.report.record import Record
from moejax.report.style import PERCENT, TEST, THOUSANDS, TRAIN, VALIDATION, panels


def curves(record: Record) -> Figure:
    """Training (raw and smoothed), validation and the final test, loss on the left and accuracy on the right."""
    figure, loss, accuracy = _two_panels(record, ("Loss", "loss", 1.0), "Accuracy")
    loss_scale(loss, finite(record, "loss"))
    measured = [record.tested("accuracy"), *(record.validation["accuracy"][-1:] if record.validation else [])]
    accuracy_scale(accuracy, finite(record, "accuracy"), measured)
    return figure


def curves_of_text(record: Record) -> Figure:
    """The same of text: bits a byte, or a token where it has several bytes, and how often the next token is right."""
    unit = "byte" if record.in_bytes else "token"
    figure, _, accuracy = _two_panels(record, (f"Bits a {unit}", f"bits a {unit}", 1 / math.log(2)), "Next token right")
    accuracy.yaxis.set_major_formatter(PERCENT)
    return figure


def _two_panels(record: Record, of_loss: tuple[str, str, float], of_accuracy: str) -> tuple[Figure, Axes, Axes]:
    """Loss, with its title, its name and what it is times, and accuracy with its title."""
    figure, (loss, accuracy) = panels(2, 2, 2.7, "thin: training as recorded; thick: smoothed")
    title, name, scale = of_loss
    _trace(loss, record, "loss", scale)
    _trace(accuracy, record, "accuracy")
    loss.set(title=title, xlabel="step", ylabel=name)
    accuracy.set(title=of_accuracy, xlabel="step", ylabel="accuracy")
    for axes in (loss, accuracy):
        axes.xaxis.set_major_formatter(THOUSANDS)
    accuracy.legend(loc="lower right", frameon=False, labelcolor="linecolor")
    return figure, loss, accuracy


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """float [n] → float [n]: mean over the last `window` values, without those that are NaN."""
    known, box = np.isfinite(values), np.ones(window)
    total = np.convolve(np.where(known, values, 0.0), box)[: len(values)]
    count = np.convolve(known, box)[: len(values)]
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _trace(axes: Axes, record: Record, quantity: str, scale: float = 1.0) -> None:
    if record.train:
        step, values = record.train["step"], scale * record.train[quantity]
        axes.plot(step, values, color=TRAIN, lw=0.7, alpha=0.35)
        axes.plot(step, smooth(values, max(1, len(values) // 40)), color=TRAIN, lw=2, label="train")
    if record.validation:
        step, values = record.validation["step"], scale * record.validation[quantity]
        axes.plot(step, values, color=VALIDATION, lw=1.2, marker="o", ms=3.5, label="validation")
    test = record.tested(quantity)
    if np.isfinite(test):
        last = max(columns["step"][-1] for columns in (record.train, record.validation) if columns)
        step = record.summary.get("tested_step", record.test.get("step", last))
        star = {"marker": "*", "ms": 11, "mec": "white", "zorder": 5, "label": f"test, {test:.2%}"}
        axes.plot([step], [scale * test], color=TEST, lw=0, **star)


def finite(record: Record, quantity: str) -> np.ndarray:
    """float [n]: all that training and validation measured of it, in no order."""
    columns = [columns[quantity] for columns in (record.train, record.validation) if columns]
    values = np.concatenate(columns) if columns else np.empty(0)
    return values[np.isfinite(values)]


def loss_scale(axes: Axes, values: np.ndarray) -> None:
    """The vertical axis of losses: by their logarithm where they span more than a factor of 20."""
    axes.set_ylabel("cross-entropy, nats")
    if values.size and values.min() > 0 and values.max() > 20 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def accuracy_scale(axes: Axes, values: np.ndarray, ends: Sequence[float] = ()) -> None:
    """Up to 100 %, from a little below what most of training reached, and all `ends`: the last percent can be seen."""
    floor = float(np.quantile(values, 0.08)) if values.size else 0.0
    floor = min([floor, *(end for end in ends if math.isfinite(end))])
    axes.yaxis.set_major_formatter(PERCENT)
    axes.set_ylim(max(0.0, floor - 0.15 * (1 - floor) - 0.01), 1.0 + 0.02 * (1 - floor) + 0.001)
