"""What do routing, dispatch and combine cost on top of the experts?  python -m benchmarks dispatch   (3 minutes, CPU)

Forward and backward (gradients of the tokens and of every parameter), float32, normal tokens, capacity factor 1.25,
capacity competed for in groups of hidden / 4 tokens. Two questions, two baselines, timed in turns:

- `einsum` and `gather` against `experts`: the experts' own batched matrix products on the same buffers, and again
  with the choice given, which leaves out the search for the best k;
- `grouped`, which drops nothing, against `mlp`: one MLP of hidden width k · h, the same active FLOPs.
"""

import jax
import numpy as np

from benchmarks.harness.interleave import interleave, ratio
from benchmarks.suite.cases import Case, forward_backward, layers, program, tokens, unevenness, with_gradients
from moejax.experts import apply_experts
from moejax.report.markdown import markdown

TURNS = 15
CASES = (
    Case(256, 784, 256, 8, 2),
    Case(1024, 256, 1024, 8, 2),
    Case(4096, 256, 1024, 16, 2),
    Case(4096, 512, 1024, 64, 2),
)
SLOTS = ("einsum", "gather", "einsum_given", "gather_given")  # what is measured by the experts on the same slots
SMALL = Case(64, 32, 64, 4, 2)


def row_of(case: Case, turns: int = TURNS) -> dict:
    """Milliseconds of each way and the two kinds of ratio, for one shape."""
    made, (x, dy) = layers(case), tokens(case)
    gather = made["gather"]
    capacity = gather.capacity(case.group_size, train=True)
    buffers = jax.random.normal(jax.random.key(2), (2, case.experts, case.tokens // case.group_size, capacity, case.d))
    programs = {name: program(forward_backward, made[name], x, dy) for name in ("mlp", "einsum", "gather", "grouped")}
    given = jax.jit(lambda layer, x: layer(x, train=True)[1].experts)(gather, x).reshape(1, case.tokens, case.k)
    for name in ("einsum", "gather"):
        programs[f"{name}_given"] = program(forward_backward, made[name], x, dy, given=given)
    programs["experts"] = program(with_gradients(apply_experts), gather.experts, *buffers)
    seconds = interleave({name: p.call for name, p in programs.items()}, turns)
    return {
        "case": case._asdict() | {"group": case.group_size},
        "capacity": capacity,
        **unevenness(gather, x),
        "ms": {name: float(1e3 * np.median(times)) for name, times in seconds.items()},
        **{f"{name}_to_experts": ratio(seconds[name], seconds["experts"]) for name in SLOTS},
        "grouped_to_mlp": ratio(seconds["grouped"], seconds["mlp"]),
    }


def table(rows: list[dict]) -> str:
    """One line a shape; times are medians, ratios medians over the turns."""
    header = ["T, d, h, E, k", "group", "dropped", "experts, ms", "einsum", "gather", "einsum, given", "gather, given"]
    header += ["mlp, ms", "grouped"]

    def line(row: dict) -> list[str]:
        *slots, grouped = (
            f"{row[name]['median']:.2f}×" for name in (*(f"{s}_to_experts" for s in SLOTS), "grouped_to_mlp")
        )
        experts, mlp = (f"{row['ms'][name]:.1f}" for name in ("experts", "mlp"))
        case, lost = Case(**row["case"]), f"{row['dropped']:.1%}"
        return [str(case), str(case.group_size), lost, experts, *slots, mlp, grouped]

    return markdown(header, map(line, rows))


def run(quick: bool) -> list[dict]:
    """Measure all shapes."""
    return [row_of(SMALL, 3)] if quick else [row_of(case) for case in CASES]
