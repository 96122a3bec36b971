"""Is the scanned loop faster than an ordinary one?  python -m benchmarks training_loop   (2 minutes on two CPU cores)

All train the same model on the same examples with the same compiled update. The scanned loop keeps the data on the
device and runs a chunk of steps in one call; the plain loop indexes NumPy arrays and calls the jitted step for each
batch, without waiting for it ("plain") or reading its loss as many loops do ("reading"). They take turns in one
process; a speed-up is the median of the ratios of neighbouring turns.
"""

import dataclasses
import functools
import time

import jax
import numpy as np

from moejax.config import Config
from moejax.models import build_model
from moejax.presets import PRESETS
from moejax.report.markdown import markdown
from moejax.training.loop import epoch_order, make_chunk, make_init, make_keys, make_update, parameter_key
from moejax.training.objective import make_objective
from moejax.training.optimizer import make_optimizer

CASES = (("mnist_tiny", 16), ("mnist_tiny", 64), ("mnist_soft", 64))
STEPS, TURNS = 100, 5
NAMES = ("scanned", "plain", "reading")


def compare(config: Config, steps: int = STEPS, turns: int = TURNS) -> dict:
    """Steps per second of both loops, in turns."""
    size = config.train.batch_size
    rng = np.random.default_rng(0)
    examples = steps * size
    host = {
        "image": rng.integers(0, 256, (examples, 28, 28), dtype=np.uint8),
        "label": rng.integers(0, 10, examples).astype(np.int32),
    }
    optimizer = make_optimizer(config.train, 10 * steps * turns)
    update, keys = make_update(make_objective(config), optimizer), make_keys(0)
    chunk, step = make_chunk(update, size, steps), jax.jit(update, donate_argnums=0)
    device = jax.device_put(host)
    fold = jax.jit(jax.random.fold_in)

    def scanned(state):
        return chunk(state, device, keys, int(state.step) + steps)[0]

    def plain(state, read_loss: bool = False):
        order = np.asarray(epoch_order(keys.order, int(state.step) // steps, examples))
        for i in range(steps):
            rows = order[i * size : (i + 1) * size]
            state, metrics = step(state, {name: array[rows] for name, array in host.items()}, fold(keys.augment, i))
            if read_loss:
                float(metrics.loss)
        return state

    loops = (scanned, plain, functools.partial(plain, read_loss=True))
    init = make_init(lambda rngs: build_model(config, 10, rngs), optimizer)
    states = [init(parameter_key(0)) for _ in loops]
    times = np.zeros((turns + 1, len(loops)))
    for turn in range(turns + 1):
        for n, loop in enumerate(loops):
            start = time.perf_counter()
            states[n] = jax.block_until_ready(loop(states[n]))
            times[turn, n] = time.perf_counter() - start
    times = times[1:]  # the first turn compiles
    ratios = times[:, 1:] / times[:, :1]
    return {
        "preset": config.name,
        "batch_size": size,
        "ms_per_step": dict(zip(NAMES, (1e3 * np.median(times, axis=0) / steps).tolist(), strict=True)),
        "speedup": dict(zip(NAMES[1:], np.median(ratios, axis=0).tolist(), strict=True)),
        "speedup_range": dict(zip(NAMES[1:], np.stack([ratios.min(0), ratios.max(0)], 1).tolist(), strict=True)),
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
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=size))
        rows.append(compare(config, *((20, 2) if quick else (STEPS, TURNS))))
    return rows
