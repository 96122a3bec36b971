"""A language model of 368 M parameters trains on a GPU.  python -m benchmarks gpu   (not yet run: meant for 1 minute)

The preset `text_sparse` sized up: 12 blocks of width 768, in each 8 experts of which a token goes to 2, in bfloat16, on
random bytes. The figure is the share of the measured matrix product's rate at which the work of a step was done: two
FLOPs for each weight that a token meets and for each of the keys that it may see, in scores and values, three times
that with the way back. A token meets 114 M of the parameters.
"""

from collections.abc import Iterator

import jax
import numpy as np

from benchmarks.harness.interleave import interleave
from benchmarks.suite.limit import limit_of
from benchmarks.suite.loops import compiled
from moejax.config import Config
from moejax.models import build_model, decoder
from moejax.parameters import parameters
from moejax.presets import PRESETS
from moejax.report.markdown import markdown
from moejax.training.feed import from_all
from moejax.training.loop import make_chunk, make_init, make_keys, make_update, parameter_key
from moejax.training.objective import make_objective
from moejax.training.optimizer import make_optimizer

STEPS, TURNS = 10, 7  # steps of a turn
BYTES = 256
LARGE = {
    "data": dict(length=512),
    "model": dict(width=768, depth=12, heads=12),
    "moe": dict(num_experts=8, hidden=1536, k=2),
    "train": dict(batch_size=32, dtype="bfloat16", learning_rate=3e-4),
}
SMALL = {
    "data": dict(length=8),
    "model": dict(width=16, depth=1, heads=2),
    "moe": dict(num_experts=4, hidden=8, k=2),
    "train": dict(batch_size=2, dtype="bfloat16"),
}


def flops_per_token(config: Config) -> float:
    """Of a step of training: three times those of the way forward, without anything computed twice."""
    return 3 * decoder.flops_per_token(config, BYTES, keys=(config.data.length + 1) / 2)  # half of them on average


def row_of(config: Config, steps: int, turns: int, side: int | None = None) -> dict:
    """Tokens a second of the scanned loop."""
    limit, size, keys = limit_of(config.train.dtype, turns, side), config.train.batch_size, make_keys(0)
    host = np.random.default_rng(0).integers(0, BYTES, (2, steps * size, config.data.length), np.uint8)
    data = jax.device_put({"tokens": host[0], "label": host[1]})
    optimizer = make_optimizer(config.train, 10**4)
    init = make_init(lambda rngs: build_model(config, BYTES, rngs), optimizer)
    state = init(parameter_key(0))
    numbers = sum(leaf.size for leaf in jax.tree.leaves(parameters(state.model)))
    chunk = make_chunk(make_update(make_objective(config), optimizer, 10**4), from_all(size), steps)
    program, compile_seconds = compiled(chunk, state, data, keys, 0)

    def go_on() -> jax.Array:
        nonlocal state
        state, metrics = program(state, data, keys, int(state.step) + steps)
        return metrics.loss

    seconds = float(np.median(interleave({"scanned": go_on}, turns)["scanned"]))
    tokens = steps * size * config.data.length
    return {
        "parameters": numbers,
        "batch": size,
        "length": config.data.length,
        "rate": limit.flops,
        "compile_seconds": compile_seconds,
        "peak_mb": program.memory_analysis().temp_size_in_bytes / 1e6,
        "tokens_per_second": tokens / seconds,
        "of_rate": tokens / seconds * flops_per_token(config) / limit.flops,
    }


def table(rows: list[dict]) -> str:
    """One line a model."""
    header = ["parameters", "batch", "compile, s", "working memory, MB", "tokens/s", "of the matrix products' rate"]

    def line(row: dict) -> list[str]:
        sizes = [f"{row['parameters'] / 1e6:,.2f} M", f"{row['batch']} × {row['length']}"]
        spent = [f"{row['compile_seconds']:.1f}", f"{row['peak_mb']:,.0f}"]
        return [*sizes, *spent, f"{row['tokens_per_second']:,.0f}", f"{row['of_rate']:.1%}"]

    return markdown(header, map(line, rows))


def run(quick: bool) -> Iterator[dict]:
    """Measure the large model; quickly, a small one."""
    config = PRESETS["text_sparse"].config.replace(**(SMALL if quick else LARGE))
    yield row_of(config, *((2, 2, 256) if quick else (STEPS, TURNS)))
