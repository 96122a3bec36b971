"""Routers and dispatches alone.  python -m benchmarks routing   (80 seconds on two CPU cores)

Routers: from tokens to a routing with slots, in tokens per second. Dispatches: from a routing that is given, into the
experts' slots (or sorted rows) and back, with experts that do nothing, in multiples of the time to copy the tokens.
Both in training, forward only, by number of experts and of tokens.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from benchmarks.harness.interleave import interleave, ratio
from benchmarks.suite.cases import Case, program, sparse, tokens
from moejax.dispatch import einsum_dispatch, gather_dispatch, grouped_dispatch
from moejax.report.markdown import markdown
from moejax.routers import ROUTERS, Context
from moejax.routing import expert_capacity

TURNS = 11
CASES = tuple(Case(t, 256, 1024, e, 2) for t, e in ((1024, 8), (8192, 8), (8192, 64), (32768, 64)))
SMALL = Case(256, 32, 64, 8, 2)


def routers(case: Case, turns: int) -> dict[str, float]:
    """Tokens per second of every router."""
    x, _ = tokens(case)
    x = x.reshape(-1, case.group_size, case.d)
    capacity = expert_capacity(case.group_size, case.experts, case.k, case.factor)
    ids = jnp.broadcast_to(jnp.arange(case.group_size), x.shape[:2])
    context = Context(True, jax.random.key(0), None, ids)
    calls = {}
    for name, make in ROUTERS.items():
        k = 1 if name == "switch" else case.k
        router = jax.jit(lambda make=make, k=k: make(case.d, case.experts, k, rngs=nnx.Rngs(0)))()
        calls[name] = program(lambda router, x: router(x, capacity, context), router, x).call
    return {name: float(case.tokens / np.median(times)) for name, times in interleave(calls, turns).items()}


def dispatches(case: Case, turns: int) -> dict[str, dict]:
    """Each dispatch with experts that do nothing, as a multiple of a copy of the tokens."""
    x, _ = tokens(case)
    layer = sparse(case, "gather")
    groups = x.reshape(-1, case.group_size, case.d)
    capacity = layer.capacity(case.group_size, train=True)
    slotted = jax.jit(lambda router, x: router(x, capacity, Context(True)))(layer.router, groups)
    whole = jax.jit(lambda router, x: router(x, None, Context(True)))(layer.router, groups)

    def nothing(x: Float[Array, "*rows d"], *_: Array) -> Float[Array, "*rows d"]:
        return x

    calls = {
        "copy": program(lambda x: x + 1, groups).call,
        "einsum": program(lambda x, r: einsum_dispatch(nothing, x, r, capacity), groups, slotted).call,
        "gather": program(lambda x, r: gather_dispatch(nothing, x, r, capacity), groups, slotted).call,
        "grouped": program(lambda x, r: grouped_dispatch(nothing, x, r), groups, whole).call,
    }
    seconds = interleave(calls, turns)
    copy = seconds.pop("copy")
    return {name: {"ms": float(1e3 * np.median(t)), "to_copy": ratio(t, copy)} for name, t in seconds.items()}


def table(rows: list[dict]) -> str:
    """One line a router or dispatch, one column a shape."""
    header = ["", *(f"T {row['case']['tokens']:,}, E {row['case']['experts']}" for row in rows)]
    lines = [
        [f"`{name}`, million tokens/s", *(f"{row['routers'][name] / 1e6:.2f}" for row in rows)]
        for name in rows[0]["routers"]
    ] + [
        [f"`{name}`, × a copy", *(f"{row['dispatches'][name]['to_copy']['median']:.1f}" for row in rows)]
        for name in rows[0]["dispatches"]
    ]
    return markdown(header, lines)


def run(quick: bool) -> list[dict]:
    """Measure all shapes."""
    turns = 3 if quick else TURNS
    return [
        {"case": case._asdict(), "routers": routers(case, turns), "dispatches": dispatches(case, turns)}
        for case in ((SMALL,) if quick else CASES)
    ]
