"""What the experts go by: how much of each layer's routing the position, the content and the label of a token tell."""

import numpy as np
from matplotlib.figure import Figure

from moejax.report.record import Record
from moejax.report.style import INK, MOST_LAYERS, PAPER, PERCENT, TRAIN, panels, portion, spread

RESPECTS = ("position", "content", "label")


def experts_by(record: Record) -> Figure:
    """A panel for each layer, with a bar for each respect."""
    known = [name for name in RESPECTS if record.has(f"experts_by_{name}")]
    names = [record.respect_name(name).replace(" ", "\n") for name in known]
    shares = np.nan_to_num([record.routing[f"experts_by_{name}"] for name in known])  # respect, layer
    shown = spread(shares.shape[1], MOST_LAYERS)
    figure, axes = panels(
        len(shown),
        2,
        0.3 * len(known),
        "100%: it tells each token's experts; several can tell the same",
        portion(len(shown), shares.shape[1], "layers"),
    )
    for panel, layer in zip(axes, shown, strict=True):
        panel.barh(names, shares[:, layer], height=0.62, color=TRAIN)
        panel.set(title=record.layer_name(layer), xlim=(0, 1.0), xlabel="of the routing")
        panel.invert_yaxis()
        panel.grid(False, axis="y")
        panel.xaxis.set_major_formatter(PERCENT)
        for row, share in enumerate(shares[:, layer]):
            inside = share > 0.85
            panel.annotate(
                f"{share:.0%}",
                (share, row),
                (-4 if inside else 4, 0),
                textcoords="offset points",
                va="center",
                ha="right" if inside else "left",
                color=PAPER if inside else INK,
            )
    return figure
