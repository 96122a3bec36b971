"""Is the scanned loop faster than an ordinary one?  python -m benchmarks training_loop   (2 minutes on two CPU cores)

All train the same model on the same examples with the same compiled update (`loops` says how). They take turns in one
process; a speed-up is the median of the ratios of neighbouring turns.
"""

import numpy as np

from benchmarks.harness.interleave import interleave
from benchmarks.suite.loops import make_loops, random_images
from moejax.config import Config
from moejax.presets import PRESETS
from moejax.report.markdown import markdown

CASES = (("mnist_tiny", 16), ("mnist_tiny", 64), ("mnist_soft", 64))
STEPS, TURNS = 100, 5
NAMES = ("scanned", "plain", "reading")


def row_of(config: Config, steps: int = STEPS, turns: int = TURNS) -> dict:
    """Milliseconds a step of each loop, in turns."""
    loops = make_loops(config, random_images(steps * config.train.batch_size), steps, 10 * steps * turns)
    seconds = interleave({name: loops[name].call for name in NAMES}, turns)
    ratios = {name: seconds[name] / seconds["scanned"] for name in NAMES[1:]}
    return {
        "preset": config.name,
        "batch_size": config.train.batch_size,
        "ms_per_step": {name: float(1e3 * np.median(times) / steps) for name, times in seconds.items()},
        "speedup": {name: float(np.median(r)) for name, r in ratios.items()},
        "speedup_range": {name: [float(r.min()), float(r.max())] for name, r in ratios.items()},
    }


def table(rows: list[dict]) -> str:
    """One line a case."""
    header = ["preset", "batch", "scanned, ms a step", "plain", "reading", "speed-up over plain", "over reading"]

    def line(row: dict) -> list[str]:
        numbers = [f"{x:.2f}" for x in (*row["ms_per_step"].values(), *row["speedup"].values())]
        return [f"`{row['preset']}`", str(row["batch_size"]), *numbers]

    return markdown(header, map(line, rows))


def run(quick: bool) -> list[dict]:
    """Measure all cases."""
    rows = []
    for name, size in CASES[:1] if quick else CASES:
        config = PRESETS[name].config
        config = config.replace(train={"batch_size": size})
        rows.append(row_of(config, *((20, 2) if quick else (STEPS, TURNS))))
    return rows
