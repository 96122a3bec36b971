"""Bits a byte against parameters, and on the way against FLOPs."""

from collections.abc import Sequence
from math import log
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from experiments.curves import mean_and_range
from experiments.study import Row
from moejax.report.style import DPI, STYLE

EXPERTS = {"dense": 1, "e4": 4, "e8": 8, "e16": 16, "e32": 32}
BESIDE = {
    "wide": ("all parameters at work", "D", "#a23b72"),
    "fine": ("fine-grained, one shared", "s", "#2a7f62"),
    "hash": ("by the token's hash", "^", "#667080"),
    "random": ("at random", "v", "#667080"),
}
ON_THE_WAY = {
    "dense": ("dense", "#667080"),
    "random": ("16 experts at random", "#b3bac4"),
    "e16": ("16 experts", "#d08c00"),
    "wide": ("dense, 16 experts' parameters", "#a23b72"),
}
_TICKS = [50_000, 100_000, 200_000, 400_000, 800_000]
_BYTES, _BACK = 32 * 96, 3  # bytes of a step; FLOPs of a step for one of its forward pass


def draw(rows: Sequence[Row], file: Path) -> None:
    """Two panels; what has no rows is left out."""
    by_line = {name: [row for row in rows if row["line"] == name] for name in (*EXPERTS, *BESIDE)}
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.8, 3.6), layout="constrained")
        there = [name for name in EXPERTS if by_line[name]]
        if there:
            bits = [[row["test_bits_per_byte"] for row in by_line[name]] for name in there]
            parameters = [by_line[name][0]["parameters"] for name in there]
            mean_and_range(left, parameters, bits, "#d08c00", marker="o", label="as many FLOPs a byte")
            for name, x, y in zip(there, parameters, bits, strict=True):
                left.annotate(str(EXPERTS[name]), (x, np.mean(y)), (0, -17), textcoords="offset points", ha="center")
        for name, (label, marker, colour) in BESIDE.items():
            if mine := by_line[name]:
                mean = np.mean([row["test_bits_per_byte"] for row in mine])
                left.plot(mine[0]["parameters"], mean, marker, color=colour, label=label, ls="")
        left.set(title="Held-out text, by number of experts", xlabel="parameters", ylabel="bits a byte", xscale="log")
        left.set_xticks(_TICKS, [f"{x // 1000}k" for x in _TICKS])
        left.minorticks_off()
        left.margins(y=0.12)
        left.legend(frameon=False, fontsize=8)
        for name, (label, colour) in ON_THE_WAY.items():
            if mine := by_line[name]:
                row = mine[0]
                teraflops = np.array(row["steps"]) * _BYTES * _BACK * row["flops_per_byte"] / 1e12
                right.plot(teraflops, _smooth(row["losses"]), color=colour, label=label)
        right.set(title="On the way", xlabel="training TFLOP", ylabel="bits a byte, training", xscale="log")
        right.legend(frameon=False, fontsize=8)
        figure.savefig(file, dpi=DPI)
        plt.close(figure)


def _smooth(losses: Sequence[float]) -> np.ndarray:
    """Means of three, in bits."""
    padded = np.pad(np.array(losses) / log(2), 1, mode="edge")
    return np.convolve(padded, np.ones(3) / 3, mode="valid")
