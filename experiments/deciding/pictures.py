"""A router that decides and one that does not: its entropy over training, and the larger of a token's two weights."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from experiments.study import Row
from moejax.report.style import DPI, STYLE

RUNS = {"preset": ("#d08c00", "the preset"), "layer's own": ("#667080", "the layer's own weights of the losses")}


def draw(rows: Sequence[Row], file: Path) -> None:
    """Two panels, of the first seed that there is of both."""
    found = {name: next((row for row in rows if row["line"] == name), None) for name in RUNS}
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.2), layout="constrained")
        for name, row in found.items():
            colour, label = RUNS[name]
            for layer in (0, 1) if row else ():
                line = dict(color=colour, ls=("-", "--")[layer], label=f"{label}, layer {layer}")
                left.plot(row["steps"], np.array(row["entropies"])[:, layer], **line)
                right.stairs(100 * np.array(row["larger_share"][layer]), np.linspace(0.5, 1.0, 21), **line)
        left.axhline(np.log(8), color="#b3bac4", lw=0.8)
        left.set(title="Entropy of the router", xlabel="step", ylabel="nats, at most ln 8", ylim=(0, None))
        right.set(title="The larger of a token's two weights", xlabel="share of its output", ylabel="tokens, %")
        right.legend(frameon=False, fontsize=8)
        figure.savefig(file, dpi=DPI)
        plt.close(figure)
