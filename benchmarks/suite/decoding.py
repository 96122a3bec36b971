"""What do few tokens cost, as in decoding?  python -m benchmarks decoding   (5 minutes on two CPU cores)

Forward, at evaluation, float32. A product of few rows takes as long as reading the matrices does. Slots are multiplied
by all experts; rows sorted by expert can be multiplied one by one, and each reads its own expert alone. Each dispatch
is timed with that (`few`) and without (`many`), in turns, whatever the layer would choose: `kernels.groups.FEW` and
`experts.UNREAD` are chosen by this. The tokens' experts are given, as many different ones as there can be: so they do
not depend on the router, and the gain is the least.
"""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from benchmarks.harness.interleave import interleave, ratio
from benchmarks.suite.cases import Case, Program, program, sparse, tokens
from moejax import experts
from moejax.kernels import groups
from moejax.layers import DISPATCHES, SparseMoE
from moejax.report.markdown import markdown

TURNS = 9
TOKENS = (1, 2, 4, 8, 16, 32)
SHAPES = tuple(Case(1, d, h, e, 2) for d, h in ((128, 256), (256, 512), (1024, 4096)) for e in (8, 64))
SMALL = Case(1, 16, 32, 16, 2)
SHARES = {"many": 0.0, "few": float("inf")}  # rows per matrix that count as few


def spread(case: Case) -> Int[Array, "1 t k"]:
    """Experts in turn, k for each token."""
    return jnp.arange(case.tokens * case.k).reshape(1, case.tokens, case.k) % case.experts


def forward(layer: SparseMoE, x: Float[Array, "1 t d"], given: Int[Array, "1 t k"]) -> Float[Array, "1 t d"]:
    """The layer's output at evaluation, with these experts."""
    return layer(x, given=given)[0]


def programs(layer: SparseMoE, case: Case) -> dict[tuple[str, str], Program]:
    """By dispatch and by whether tokens count as few; all with the parameters of one layer."""
    (x, _), chosen, found = tokens(case), spread(case), {}
    usual = groups.FEW, experts.UNREAD
    try:
        experts.UNREAD = 0
        for dispatch in DISPATCHES:
            one = nnx.merge(*nnx.split(layer))
            one.dispatch = dispatch
            for name, groups.FEW in SHARES.items():
                found[dispatch, name] = program(lambda *a: forward(*a), one, x, chosen)  # not one traced before
    finally:
        groups.FEW, experts.UNREAD = usual
    return found


def row_of(layer: SparseMoE, case: Case, turns: int = TURNS) -> dict:
    """Milliseconds of each dispatch both ways, and how many times faster few is."""
    seconds = interleave({name: p.call for name, p in programs(layer, case).items()}, turns)
    ways = {
        dispatch: {name: float(1e3 * np.median(seconds[dispatch, name])) for name in SHARES} for dispatch in DISPATCHES
    }
    gain = {dispatch: ratio(seconds[dispatch, "many"], seconds[dispatch, "few"]) for dispatch in DISPATCHES}
    return {"case": case._asdict(), "ms": ways, "gain": gain}


def table(rows: list[dict]) -> str:
    """One line a shape and dispatch, one column a number of tokens: the time of many, and the gain."""
    numbers = sorted({row["case"]["tokens"] for row in rows})
    header = ["d, h, E, k", "dispatch", *(f"{n} token{'s' * (n > 1)}" for n in numbers)]
    shapes = list(dict.fromkeys(str(Case(**row["case"])).partition(", ")[2] for row in rows))
    cells = {(str(Case(**row["case"])).partition(", ")[2], row["case"]["tokens"]): row for row in rows}

    def cell(row: dict | None, dispatch: str) -> str:
        if row is None:
            return ""
        return f"{row['ms'][dispatch]['many']:.2f} ms, {row['gain'][dispatch]['median']:.2f}×"

    return markdown(
        header,
        (
            [shape, f"`{dispatch}`", *(cell(cells.get((shape, n)), dispatch) for n in numbers)]
            for shape in shapes
            for dispatch in DISPATCHES
        ),
    )


def run(quick: bool) -> Iterator[dict]:
    """Measure all shapes and numbers of tokens."""
    for shape in (SMALL,) if quick else SHAPES:
        layer = sparse(shape, "gather")
        for n in (1, 4) if quick else TOKENS:
            yield row_of(layer, shape._replace(tokens=n), 3 if quick else TURNS)
