"""How fast do the MNIST presets train, and how fast in PyTorch?  python -m benchmarks training   (4 minutes, CPU)

Examples a second of the scanned loop, of a loop that calls the jitted step for each batch (`loops`), and of an ordinary
PyTorch eager loop (`peers.training`) with the same model, the same number of parameters, batches, augmentation,
clipping and AdamW; a sparse model in PyTorch both ways that people write one, experts in a loop and as einsums. They
take turns in one process, with a rest before each for the other library's threads. Times to compile stand beside it;
PyTorch needs none. A ratio is the median of the ratios of neighbouring turns.
"""

from types import ModuleType

import numpy as np

from benchmarks.harness.interleave import interleave, ratio
from benchmarks.suite.loops import make_loops, random_images
from moejax.config import Config
from moejax.presets import PRESETS
from moejax.report.markdown import markdown

PRESETS_MEASURED = ("mnist_dense", "mnist_sparse", "mnist_soft")
STEPS, TURNS, REST = 50, 7, 0.05


def pytorch() -> ModuleType | None:
    """What makes the PyTorch loops; None, and one sentence, where PyTorch is missing or cannot use the device."""
    try:
        from benchmarks.peers import training as theirs

        theirs.use_device()
    except (ImportError, RuntimeError) as error:
        print(f"training: PyTorch's columns stay empty ({error}); pip install 'moejax[peers]' brings it.", flush=True)
        return None
    return theirs


def row_of(config: Config, theirs: ModuleType | None, steps: int = STEPS, turns: int = TURNS) -> dict:
    """Examples per second of each loop, in turns."""
    arguments = config, random_images(steps * config.train.batch_size), steps, 10 * steps * turns
    ours = make_loops(*arguments)
    loops = {name: ours[name] for name in ("scanned", "plain")}
    if theirs is not None:
        ways = {"torch loop": "loop", "torch einsum": "einsum"} if config.moe.layer == "sparse" else {"torch": "loop"}
        loops |= {name: theirs.make_loop(*arguments, dispatch=way) for name, way in ways.items()}
    seconds = interleave({name: loop.call for name, loop in loops.items()}, turns, rest=REST)
    examples = steps * config.train.batch_size
    return {
        "preset": config.name,
        "layer": config.moe.layer,
        "batch_size": config.train.batch_size,
        "compile_seconds": {name: ours[name].compile_seconds for name in ("scanned", "plain")},
        "examples_per_second": {name: float(examples / np.median(times)) for name, times in seconds.items()},
        "scanned_to": {name: ratio(t, seconds["scanned"]) for name, t in seconds.items() if name != "scanned"},
    }


def table(rows: list[dict]) -> str:
    """One line a preset; PyTorch's column is the faster way's."""
    header = ["preset", "batch", "compile, s", "scanned, examples/s", "step by step", "PyTorch eager", "over it"]

    def line(row: dict) -> list[str]:
        rates = row["examples_per_second"]
        theirs = {name: rate for name, rate in rates.items() if name.startswith("torch")}
        best = max(theirs, key=theirs.get, default=None)
        peer = [f"{theirs[best]:,.0f}", f"{row['scanned_to'][best]['median']:.2f}×"] if best else ["", ""]
        own = [f"{row['compile_seconds']['scanned']:.1f}", *(f"{rates[name]:,.0f}" for name in ("scanned", "plain"))]
        return [f"`{row['preset']}`", str(row["batch_size"]), *own, *peer]

    return markdown(header, map(line, rows))


def run(quick: bool) -> list[dict]:
    """Measure all presets; quickly, the tiny one with a sparse layer, which has most ways."""
    theirs = pytorch()
    if not quick:
        return [row_of(PRESETS[name].config, theirs) for name in PRESETS_MEASURED]
    tiny = PRESETS["mnist_tiny"].config
    return [row_of(tiny.replace(moe={"layer": "sparse"}), theirs, 5, 2)]
