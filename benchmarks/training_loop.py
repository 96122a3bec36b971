"""Is the scanned loop faster than an ordinary one?  python -m benchmarks.training_loop   (2 minutes on two CPU cores)

Both train the same model on the same examples with the same compiled update. The scanned loop keeps the data on the
device and runs a chunk of steps in one call; the plain loop indexes NumPy arrays and calls the jitted step for each
batch. The two take turns in one process; each row is the median ratio of pairs of turns.
"""

import argparse
import dataclasses
import statistics
import time

import jax
import numpy as np

from benchmarks import record
from moejax.config import Config
from moejax.models import build_model
from moejax.presets import PRESETS
from moejax.training.loop import epoch_order, make_chunk, make_init, make_keys, make_update, parameter_key
from moejax.training.objective import make_objective
from moejax.training.optimizer import make_optimizer

CASES = (("mnist_tiny", 16), ("mnist_tiny", 64), ("mnist_soft", 16), ("mnist_soft", 64), ("mnist_sparse", 64))
STEPS, TURNS = 100, 9


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

    def plain(state):
        order = np.asarray(epoch_order(keys.order, int(state.step) // steps, examples))
        for i in range(steps):
            rows = order[i * size : (i + 1) * size]
            state, _ = step(state, {name: array[rows] for name, array in host.items()}, fold(keys.augment, i))
        return state

    def seconds(loop, state):
        start = time.perf_counter()
        state = jax.block_until_ready(loop(state))
        return time.perf_counter() - start, state

    init = make_init(lambda rngs: build_model(config, 10, rngs), optimizer)
    states = [init(parameter_key(0)) for _ in range(2)]
    times: list[tuple[float, float]] = []
    for _ in range(turns + 1):
        a, states[0] = seconds(scanned, states[0])
        b, states[1] = seconds(plain, states[1])
        times.append((a, b))
    times = times[1:]  # the first turn compiles
    ratios = sorted(b / a for a, b in times)
    return {
        "preset": config.name,
        "batch_size": size,
        "scanned_ms_per_step": 1e3 * statistics.median(a for a, _ in times) / steps,
        "plain_ms_per_step": 1e3 * statistics.median(b for _, b in times) / steps,
        "speedup": statistics.median(ratios),
        "speedup_range": [ratios[0], ratios[-1]],
    }


def main() -> None:
    """Measure all cases, print a table and write the result file."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    rows = []
    print(f"{'preset':14}{'batch':>6}{'scanned ms':>12}{'plain ms':>10}{'speed-up':>10}   range", flush=True)
    for name, size in CASES:
        config = PRESETS[name].config
        row = compare(dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=size)))
        rows.append(row)
        low, high = row["speedup_range"]
        print(
            f"{name:14}{size:>6}{row['scanned_ms_per_step']:>12.2f}{row['plain_ms_per_step']:>10.2f}"
            f"{row['speedup']:>10.2f}   {low:.2f} to {high:.2f}",
            flush=True,
        )
    print(record.write("training_loop", rows, steps=STEPS, turns=TURNS))


if __name__ == "__main__":
    main()
