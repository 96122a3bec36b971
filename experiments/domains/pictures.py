"""What a lecture would show: the images, the price of more domains, accuracy against FLOPs, who serves which domain."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy import ndarray

from experiments.curves import mean_and_range
from experiments.study import Row
from moejax.data import load
from moejax.report.style import AMOUNT, DPI, STYLE, bare

CURVES = {  # model: name, colour, line
    "wide": ("dense, as many parameters", "#8f6a4c", ":"),
    "oracle": ("a network a domain", "#35994a", "--"),
    "learnt": ("experts, learnt", "#3f6fd9", "-"),
    "dense": ("dense, equal FLOPs", "#e35d49", "-"),
}


def draw(
    rows: Sequence[Row], domains: Mapping[str, int], best: Mapping[str, str], file: Path, folder: str | None
) -> None:
    """One page: a row of panels for rotations, one for permutations; curves where there is more than the table.

    For each change of images: into how many `domains` in the table, and which network is the `best` that learns to
    choose.
    """
    curves = any(row["share"] != 1 for row in rows)
    changes = [change for change in domains if any(row["change"] == change for row in rows)]
    with plt.rc_context(STYLE):
        widths = (1, 1.25, 1.25, 1.25) if curves else (1, 1.25)
        size = (2.75 * sum(widths), 3.3 * len(changes))
        figure, axes = plt.subplots(
            len(changes), len(widths), figsize=size, width_ratios=widths, squeeze=False, layout="constrained"
        )
        for change, (images, experts, *of_curves) in zip(changes, axes, strict=True):
            mine = [row for row in rows if (row["of"], row["change"]) == ("mnist", change)]
            mine = [row | {"model": "learnt"} if row["model"] == best[change] else row for row in mine]
            usual = domains[change]
            _images(images, change, usual, folder)
            _experts(experts, [row for row in mine if row["model"] == "learnt" and row["domains"] == usual])
            if of_curves:
                by_domains, by_flops = of_curves
                _curves(by_domains, [row for row in mine if row["share"] == 1], lambda row: row["domains"])
                by_domains.set(title=f"The more {change}, …", xlabel="domains", ylabel="test accuracy, %")
                _curves(by_flops, [row for row in mine if row["domains"] == usual], lambda row: row["flops"] / 1e3)
                by_flops.set(title=f"{usual} {change}", xlabel="kFLOP per image")
                if by_domains.lines:
                    by_domains.legend(frameon=False, fontsize=7, loc="lower left")
                for panel in of_curves:
                    panel.set_xscale("log", base=2)
                    panel.xaxis.set_major_formatter("{x:g}")
                    panel.set_visible(bool(panel.lines))
        figure.savefig(file, dpi=DPI)
        plt.close(figure)


def _images(panel: Axes, change: str, domains: int, folder: str | None) -> None:
    """A few images in four domains."""
    test = load("domains", change=change, domains=domains, dir=folder).test
    shown = [test["image"][(test["domain"] == d) & (test["label"] == y)][0] for y in (2, 4, 7) for d in range(4)]
    grid = np.array(shown).reshape(3, 4, 28, 28)
    grid = np.pad(grid, ((0, 0), (0, 0), (2, 2), (2, 2)))
    panel.imshow(255 - grid.transpose(0, 2, 1, 3).reshape(3 * 32, 4 * 32), cmap="gray")
    panel.set(xticks=[16 + 32 * d for d in range(4)], xticklabels=[f"domain {d}" for d in range(4)], yticks=[])
    panel.set_title(f"Classes in {domains} {change}")
    bare(panel)


def _curves(panel: Axes, rows: Sequence[Row], x: Callable[[Row], float]) -> None:
    """Means over seeds and their range."""
    for model, (name, colour, line) in CURVES.items():
        places = sorted({x(row) for row in rows if row["model"] == model})
        if len(places) < 2:
            continue
        found = [
            [100 * row["test_accuracy"] for row in rows if row["model"] == model and x(row) == at] for at in places
        ]
        mean_and_range(panel, places, found, colour, ls=line, marker="o", ms=4, label=name)


def _experts(panel: Axes, rows: Sequence[Row]) -> None:
    """Each domain's share in each expert's images, of seed 0; experts by the domain that they serve most."""
    found = [np.array(row["domain_expert"]) for row in rows if "domain_expert" in row]
    panel.set_title("Whom the experts serve")
    if not found:
        return bare(panel)
    shares: ndarray = found[0] / np.maximum(found[0].sum(0), 1e-9)
    order = np.lexsort((-shares.max(0), shares.argmax(0)))
    panel.imshow(shares[:, order], aspect="auto", cmap=AMOUNT, vmin=0, vmax=1, interpolation="nearest")
    panel.set(
        xlabel=f"{shares.shape[1]} experts, by the domain served most", ylabel="domain", yticks=range(len(shares))
    )
    panel.grid(False)
