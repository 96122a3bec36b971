"""What do routing, dispatch and combine cost on top of the experts?  python -m benchmarks.dispatch   (5 minutes, CPU)

Forward and backward (gradients of the tokens and of every parameter), float32, fresh normal tokens, capacity factor
1.25, capacity competed for in groups of hidden / 4 tokens. Two questions, two baselines, timed in turns:

- `einsum` and `gather` against `experts`: the experts' own batched matrix products on the same padded buffers;
- `grouped`, which drops nothing, against `dense`: one MLP of hidden width k · h, the same active FLOPs.
"""

import argparse
from functools import partial

import jax
import numpy as np
from flax import nnx

from benchmarks import record
from benchmarks.interleave import interleave, ratio
from moejax.dispatch import default_group_size
from moejax.experts import MLP, apply_experts
from moejax.layers import SparseMoE
from moejax.metrics import dropped, load, max_violation
from moejax.names import DISPATCHES

# tokens, model width d, hidden width h of an expert, experts, experts of a token
SHAPES = ((256, 784, 256, 8, 2), (1024, 256, 1024, 8, 2), (4096, 256, 1024, 16, 2), (4096, 512, 1024, 64, 2))
FACTOR, TURNS = 1.25, 15


def compare(shape: tuple[int, ...], turns: int = TURNS) -> dict:
    """Milliseconds of each way and the two kinds of ratio, for one shape."""
    tokens, d, h, num_experts, k = shape
    group = default_group_size(h)
    keys = jax.random.split(jax.random.key(0), 4)
    x, dy = (jax.random.normal(key, (1, tokens, d)) for key in keys[:2])

    def layer(dispatch):
        made = jax.jit(
            lambda: SparseMoE(
                d,
                num_experts,
                lambda rngs: MLP(d, h, rngs=rngs),
                k=k,
                dispatch=dispatch,
                capacity_factor=FACTOR,
                group_size=group,
                rngs=nnx.Rngs(0),
            )
        )()
        made.router.kernel = nnx.Param(jax.random.normal(keys[2], (d, num_experts)) / np.sqrt(d))
        return made

    layers = {name: layer(name) for name in DISPATCHES}
    capacity = layers["gather"].capacity(group, train=True)
    buffer = (num_experts, tokens // group, capacity, d)
    slots, dslots = (jax.random.normal(key, buffer) for key in keys[:2])
    mlp = jax.jit(lambda: MLP(d, k * h, rngs=nnx.Rngs(0)))()

    def forward_backward(f):
        @jax.jit
        def call(module, x, dy):
            y, transpose = jax.vjp(f, module, x)
            return y, transpose(dy)  # without y, XLA would leave out the experts' last product

        return call

    through_layer = forward_backward(lambda layer, x: layer(x, train=True)[0])
    through_experts, through_mlp = forward_backward(apply_experts), forward_backward(lambda mlp, x: mlp(x))
    calls = {
        "experts": partial(through_experts, layers["gather"].experts, slots, dslots),
        "dense": partial(through_mlp, mlp, x, dy),
        **{name: partial(through_layer, layer, x, dy) for name, layer in layers.items()},
    }
    seconds = interleave(calls, turns)
    routing = jax.jit(lambda layer, x: layer(x, train=True)[1])(layers["gather"], x)
    return {
        "shape": dict(zip(("tokens", "d", "h", "experts", "k"), shape, strict=True)),
        "group_size": group,
        "capacity": capacity,
        "dropped": float(dropped(routing)),
        "max_violation": float(max_violation(load(routing))),
        "ms": {name: float(1e3 * np.median(times)) for name, times in seconds.items()},
        "einsum_to_experts": ratio(seconds["einsum"], seconds["experts"]),
        "gather_to_experts": ratio(seconds["gather"], seconds["experts"]),
        "grouped_to_dense": ratio(seconds["grouped"], seconds["dense"]),
    }


def table(rows: list[dict]) -> str:
    """One line a shape; times are medians, ratios medians over the turns."""
    header = ["T, d, h, E, k", "group", "dropped", "experts, ms", "einsum", "gather", "dense, ms", "grouped"]

    def line(row: dict) -> list[str]:
        einsum, gather, grouped = (
            f"{row[name]['median']:.2f}×" for name in ("einsum_to_experts", "gather_to_experts", "grouped_to_dense")
        )
        experts, dense = (f"{row['ms'][name]:.1f}" for name in ("experts", "dense"))
        shape = ", ".join(map(str, row["shape"].values()))
        return [shape, str(row["group_size"]), f"{row['dropped']:.1%}", experts, einsum, gather, dense, grouped]

    return record.markdown(header, map(line, rows))


def main() -> None:
    """Measure all shapes, print a table and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=TURNS)
    turns = parser.parse_args().turns
    rows = [compare(shape, turns=turns) for shape in SHAPES]
    print(table(rows))
    print(record.write("dispatch", rows, table(rows), turns=turns, capacity_factor=FACTOR))


if __name__ == "__main__":
    main()
