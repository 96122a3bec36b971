"""Balance over the steps: each expert's load, the gate's entropy, the share of dropped choices."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moejax.report.record import Record
from moejax.report.style import (
    INK,
    MOST_LAYERS,
    MUTED,
    PERCENT,
    THOUSANDS,
    TRAIN,
    expert_colours,
    key,
    layer_colours,
    panels,
    portion,
    spread,
)

UNIFORM = (0, (4, 3))  # dashes of a line that is a reference, not a measurement


def load(record: Record) -> Figure:
    """A panel for each layer, with a line for each expert: its load; of three layers or more, one on all of them."""
    shares = record.routing["load"]
    _, layers, experts = shares.shape
    shown, colours = spread(layers, MOST_LAYERS), expert_colours(experts)
    count = len(shown) + (layers > 2)
    figure, axes = panels(
        count,
        min(2, count),
        1.9,
        f"dashed: an equal share, 1/{experts}",
        record.idle,
        portion(len(shown), layers, "layers"),
    )
    key(figure, colours, "expert")
    highest = max(2 / experts, float(np.nan_to_num(shares).max()))
    if layers > 2:
        _busiest(axes[-1], record, shares.max(-1) * experts)
    for panel, layer in zip(axes, shown, strict=False):
        panel.set_prop_cycle(color=colours)
        panel.plot(_steps(record, len(shares)), shares[:, layer], lw=1.8 if experts <= 8 else 0.9, **_dots(len(shares)))
        panel.axhline(1 / experts, color=INK, lw=1, ls=UNIFORM)
        panel.set(
            title=record.layer_name(layer),
            xlabel="step",
            ylabel="share of the work",
            ylim=(0, min(1.08 * highest, 1.04)),
        )
        panel.xaxis.set_major_formatter(THOUSANDS)
        panel.yaxis.set_major_formatter(PERCENT)
    return figure


def _busiest(panel: Axes, record: Record, busiest: np.ndarray) -> None:
    """The busiest expert's load over an equal one, [n, layer]: median and 95th percentile over the layers."""
    steps = _steps(record, len(busiest))
    middle, high = np.percentile(busiest, [50, 95], axis=1)
    panel.fill_between(steps, middle, high, color=TRAIN, alpha=0.25, lw=0, label="to 95th percentile")
    panel.plot(steps, middle, color=TRAIN, lw=1.8, label="median", **_dots(len(middle)))
    panel.axhline(1, color=INK, lw=1, ls=UNIFORM)
    panel.set(title="The busiest expert, over all layers", xlabel="step", ylabel="times an equal share")
    panel.set_ylim(0, 1.1 * max(2.0, float(np.nan_to_num(high).max())))
    panel.xaxis.set_major_formatter(THOUSANDS)
    panel.legend(loc="lower right", frameon=False)


def gate(record: Record) -> Figure:
    """Gate entropy of each layer, with its maximum ln E, and what share of its choices is dropped, or of the tokens."""
    known = [name for name in ("gate_entropy", "dropped") if record.has(name)]
    layers = record.routing[known[0]].shape[1]
    shown, colours = spread(layers, MOST_LAYERS), layer_colours(layers)
    figure, axes = panels(len(known), 2, 2.3, "one line a layer", portion(len(shown), layers, "layers"))
    key(figure, colours, "layer")
    for panel, name in zip(axes, known, strict=True):
        values = record.routing[name]
        panel.set_prop_cycle(color=colours[shown])
        panel.plot(_steps(record, len(values)), values[:, shown], lw=1.8, **_dots(len(values)))
        panel.set(xlabel="step")
        panel.xaxis.set_major_formatter(THOUSANDS)
        if name == "gate_entropy":
            panel.set(title="Gate entropy", ylabel="nats")
            if record.experts:
                ceiling = math.log(record.experts)
                panel.axhline(ceiling, color=INK, lw=1, ls=UNIFORM)
                panel.set_ylim(0, 1.18 * ceiling or 1)
                text = f"ln {record.experts} = {ceiling:.2f}: all experts alike"
                panel.text(0.99, ceiling * 1.03, text, ha="right", va="bottom", transform=panel.get_yaxis_transform())
        else:
            panel.set(title="Dropped tokens", ylabel=f"of all {record.droppable}")
            panel.yaxis.set_major_formatter(PERCENT)
            panel.set_ylim(0, max(0.01, 1.15 * float(np.nan_to_num(values).max())))
            if not values.any():
                panel.text(0.5, 0.5, "nothing was dropped", color=MUTED, ha="center", transform=panel.transAxes)
    return figure


def _steps(record: Record, count: int) -> np.ndarray:
    """The steps of the rows, or their numbers where the steps were not recorded."""
    return record.routing.get("step", np.arange(count))


def _dots(count: int) -> dict[str, object]:
    """Marks for a line of few points: one point alone would be invisible."""
    return {"marker": "o", "ms": 3} if count <= 12 else {}
