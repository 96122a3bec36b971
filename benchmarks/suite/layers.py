"""Dense, sparse and soft layers side by side.  python -m benchmarks layers   (13 minutes on two CPU cores)

Forward, and forward with the gradients of the tokens and of every parameter. From one base shape each of tokens,
experts, k, capacity factor, group size, width, type and popularity of the experts is varied by itself. `mlp` is one
dense MLP with the FLOPs that the sparse layers' tokens need, `dense` runs every expert on every token. Each row says
its group size and what it dropped; the layers take turns in one process.
"""

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.harness.interleave import interleave, ratio
from benchmarks.suite.cases import PASSES, Case, as_taken, layers, program, tokens, unevenness
from benchmarks.suite.limit import limit_of, unavoidable, unavoidable_of_mlp
from moejax.layers import SparseMoE
from moejax.report.markdown import markdown

TURNS = 7
BASE = Case(tokens=2048, d=256, h=1024, experts=16, k=2)
SWEEPS = {
    "tokens": [512, 8192],
    "experts": [8, 64],
    "k": [1, 4],
    "factor": [1.0, 2.0],
    "group": [64, 1024],
    "d": [512],
    "dtype": ["bfloat16"],
    "skew": [1.0],
}
LETTERS = {"tokens": "T", "experts": "E", "dtype": "type"}
SMALL = Case(tokens=128, d=32, h=64, experts=4, k=2)


def cases(quick: bool) -> list[Case]:
    """The base shape, then each sweep."""
    if quick:
        return [SMALL._replace(skew=1.0)]
    return [BASE] + [BASE._replace(**{name: value}) for name, values in SWEEPS.items() for value in values]


def row_of(case: Case, turns: int, side: int | None = None) -> dict:
    """All layers at one case; `side` of the matrices that measure the limit, whole ones if none is given."""
    made, (x, dy) = layers(case), tokens(case)
    arguments = {name: as_taken(name, case, x, dy) for name in made}
    limit = limit_of(case.dtype, turns, side)
    row = {"case": case._asdict() | {"group": case.group_size}, "layers": {}}
    for passes, (f, count) in PASSES.items():
        programs = {name: program(f, layer, *arguments[name][:count]) for name, layer in made.items()}
        seconds = interleave({name: p.call for name, p in programs.items()}, turns)
        for name, times in seconds.items():
            least = limit.seconds(*(unavoidable_of_mlp if name == "mlp" else unavoidable)(case, passes))
            row["layers"].setdefault(name, {})[passes] = {
                "ms": float(1e3 * np.median(times)),
                "to_mlp": ratio(times, seconds["mlp"]),
                "of_limit": float(least / np.median(times)),
                "peak_mb": programs[name].peak_bytes / 1e6,
            }
    for name, layer in made.items():
        if isinstance(layer, SparseMoE):
            row["layers"][name] |= unevenness(layer, x)
    return row


def table(rows: list[dict]) -> str:
    """One line a case: each pass as a multiple of the MLP of the same active FLOPs; forward, and with the backward."""
    base, names = rows[0]["case"], list(rows[0]["layers"])[1:]
    header = ["T, d, h, E, k; or what differs", "dropped", "mlp, ms", "of limit", *names]

    def both(layer: dict, figure: Callable[[dict], str]) -> str:
        return ", ".join(figure(layer[passes]) for passes in PASSES)

    def line(row: dict) -> list[str]:
        case, of = row["case"], row["layers"]
        differs = [f"{LETTERS.get(name, name)} {case[name]}" for name in base if case[name] != base[name]]
        mlp = [both(of["mlp"], lambda p: f"{p['ms']:.1f}"), both(of["mlp"], lambda p: f"{p['of_limit']:.0%}")]
        lost = f"{of['gather']['dropped']:.1%}"
        return [
            ", ".join(differs) or str(Case(**case)),
            lost,
            *mlp,
            *(both(of[name], lambda p: f"{p['to_mlp']['median']:.2f}×") for name in names),
        ]

    return markdown(header, map(line, rows))


def run(quick: bool) -> Iterator[dict]:
    """Measure all cases."""
    turns, side = (3, 512) if quick else (TURNS, None)
    for case in cases(quick):
        yield row_of(case, turns, side)
        print(f"layers: {case} measured", flush=True)
