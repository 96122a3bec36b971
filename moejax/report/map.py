"""A map of the tokens as the router sees them: their logits along the two directions in which they differ most."""

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from numpy import ndarray

from moejax.report.record import Record
from moejax.report.style import MOST_LAYERS, MUTED, bare, expert_colours, key, panels, portion, spread


def tokens_map(record: Record) -> Figure:
    """A panel for each layer, a dot for each token of the samples, in the colour of its first expert."""
    gate = record.routing["sample_gate"]
    layers, experts = gate.shape[1], gate.shape[-1]
    shown, colours = spread(layers, MOST_LAYERS), expert_colours(experts)
    figure, axes = panels(
        len(shown),
        2,
        3.2,
        "a dot is a token, in the colour of its first expert; grey: dropped",
        portion(len(shown), layers, "layers"),
    )
    key(figure, colours, "expert")
    for panel, layer in zip(axes, shown, strict=True):
        place, share = two_directions(record.routing["sample_logits"][:, layer])
        first, taken = gate[:, layer].argmax(-1).reshape(-1), gate[:, layer].sum(-1).reshape(-1) > 0
        bare(panel)
        panel.scatter(place[~taken, 0], place[~taken, 1], s=7, color=MUTED, alpha=0.5, lw=0)
        panel.scatter(place[taken, 0], place[taken, 1], s=9, c=colours[first[taken]], alpha=0.8, lw=0)
        panel.set(title=f"{record.layer_name(layer)}, {share:.0%} of what differs", xticks=[], yticks=[])
        panel.margins(0.05)
    return figure


def two_directions(logits: Float[ndarray, "*token n"]) -> tuple[Float[ndarray, "m 2"], float]:
    """Principal components: each token's place along the first two, and their share of the variance.

    What all of a token's logits have in common changes no softmax, and is taken out before.
    """
    flat = np.nan_to_num(logits.reshape(-1, logits.shape[-1]).astype(np.float64), posinf=0.0, neginf=0.0)
    flat -= flat.mean(1, keepdims=True)
    flat -= flat.mean(0)
    _, sizes, directions = np.linalg.svd(flat, full_matrices=False)
    directions *= np.sign(directions[np.arange(len(directions)), _largest(directions)])[:, None]
    places = np.zeros((len(flat), 2))
    places[:, : min(2, len(directions))] = flat @ directions[:2].T
    variance = sizes**2
    return places, float(variance[:2].sum() / variance.sum()) if variance.sum() > 0 else 1.0


def _largest(directions: Float[ndarray, "k n"]) -> Int[ndarray, " k"]:
    return np.abs(directions).argmax(1)
