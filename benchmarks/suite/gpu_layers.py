"""Layers at the shapes of large models, on a GPU.  python -m benchmarks gpu   (not yet run: meant for 4 minutes)

bfloat16, forward, and forward with the gradients of the tokens and of every parameter: `dense` runs every expert on
every token, then the sparse layer with each dispatch, and `grouped` once more with each of `grouped_products` that is
installed here. A layer's figure is the share of the measured matrix product's rate at which its active FLOPs were done
(4 · T · k · d · h, three times that with the gradients). All have the same parameters and tokens. Ours take turns;
then each of the products by other hands takes turns with `grouped`, so that a kernel that breaks does not take the rest
along. One that fails, or whose answer is not that of `grouped`, says so in its place.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.harness.interleave import interleave, ratio
from benchmarks.peers.grouped_products import forward_with, installed, relative_error
from benchmarks.suite.cases import Case, Program, forward, program, sparse, tokens, unevenness, with_gradients
from benchmarks.suite.limit import limit_of, unavoidable
from moejax.dispatch import combine_dense
from moejax.errors import UserError
from moejax.experts import apply_experts_to_all
from moejax.kernels import gpu
from moejax.layers import SparseMoE
from moejax.report.markdown import markdown

TURNS = 7
CASES = (
    Case(16384, 2048, 1024, 64, 8, dtype="bfloat16"),
    Case(16384, 4096, 14336, 8, 2, dtype="bfloat16"),
    Case(65536, 2048, 1024, 64, 8, dtype="bfloat16"),
)
SMALL = Case(256, 64, 128, 4, 2, dtype="bfloat16")
SECONDS = 180  # after which no further shape is begun
TOLERANCE = 0.03  # of bfloat16, as a share of the answer's length
PASSES = {"forward": (lambda f: f, 1), "forward_backward": (with_gradients, 2)}  # with the arguments beside the layer


def check() -> None:
    """Raises UserError where JAX sees no GPU."""
    if jax.default_backend() != "gpu":
        raise UserError(
            f"The benchmark gpu needs a GPU, and JAX sees only {jax.devices()[0].device_kind}; run it where there is"
            " one, with  pip install 'moejax[cuda]'."
        )


def dense_forward(layer: SparseMoE, x: jax.Array) -> jax.Array:
    """Every expert on every token, with a sparse layer's parameters."""
    gates = layer.router(x).probs
    return combine_dense(gates, apply_experts_to_all(layer.experts, x))


def ways(case: Case) -> dict[str, tuple[Callable, SparseMoE]]:
    """Ours, each as a function of (layer, tokens) and the layer, all of the same arrays."""
    grouped = sparse(case, "grouped")

    def dispatched(name: str) -> SparseMoE:
        layer = jax.tree.map(lambda leaf: leaf, grouped)
        layer.dispatch, layer.group_size, layer.capacity_factor = name, case.group_size, case.factor
        return layer

    others = {name: (forward, dispatched(name)) for name in ("einsum", "gather")}
    return {"grouped": (forward, grouped), "dense": (dense_forward, grouped), **others}


def attempt(f: Callable, *arguments: Any) -> Program | str:
    """Compile it and run it once; or why that failed, in one line."""
    try:
        made = program(f, *arguments)
        jax.block_until_ready(made.call())
    except Exception as failure:  # of a compiler, of a kernel by other hands, or no memory left
        return f"{type(failure).__name__}: {failure}".splitlines()[0][:200]
    return made


def timed(tried: dict[str, Program | str], ideal: float, turns: int) -> dict[str, dict[str, Any]]:
    """Those that work, in turns; `ideal`: seconds at the measured rate."""
    working = {name: made for name, made in tried.items() if isinstance(made, Program)}
    seconds = interleave({name: made.call for name, made in working.items()}, turns)
    entries = {name: {"failed": why} for name, why in tried.items() if isinstance(why, str)}
    for name, times in seconds.items():
        ms, peak = float(1e3 * np.median(times)), working[name].peak_bytes / 1e6
        entries[name] = {"ms": ms, "of_rate": float(ideal / np.median(times)), "peak_mb": peak}
        if "grouped" in seconds:
            entries[name]["to_grouped"] = ratio(times, seconds["grouped"])
    return entries


def row_of(case: Case, turns: int = TURNS) -> dict:
    """All ways at one shape."""
    made, (x, dy), limit = ways(case), tokens(case), limit_of(case.dtype, turns, 256 if case == SMALL else None)
    row = {"case": case._asdict() | {"group": case.group_size}, "rate": limit.flops, "layers": {}}
    row["kernels"] = list(gpu.working())  # of `grouped`, the first that fit
    row |= unevenness(made["gather"][1], x)
    for passes, (as_passes, arguments) in PASSES.items():
        given, ideal = (x, dy)[:arguments], unavoidable(case, passes)[0] / limit.flops
        tried = {name: attempt(as_passes(f), layer, *given) for name, (f, layer) in made.items()}
        entries = timed(tried, ideal, turns)
        for name, product in installed().items():
            one = attempt(as_passes(forward_with(product)), made["grouped"][1], *given)
            entries[name] = timed({"grouped": tried["grouped"], name: one}, ideal, turns)[name]
            if isinstance(one, Program) and isinstance(tried["grouped"], Program):
                entries[name]["error"] = relative_error(one.call(), tried["grouped"].call())
        for name, entry in entries.items():
            row["layers"].setdefault(name, {})[passes] = entry
    return row


def table(rows: list[dict]) -> str:
    """One line a shape and kind of pass: milliseconds, and for sparse ways the share of the measured rate."""
    names = list(dict.fromkeys(name for row in rows for name in row["layers"]))
    header = ["T, d, h, E, k", "group", "dropped", "", *names]

    def cell(entry: dict[str, Any]) -> str:
        if "ms" not in entry:
            return "failed" if entry else ""
        wrong = not entry.get("error", 0.0) <= TOLERANCE  # NaN is wrong
        return "wrong" if wrong else f"{entry['ms']:.1f} ms, {entry['of_rate']:.0%}"

    lines = []
    for row in rows:
        first = [str(Case(**row["case"])), str(row["case"]["group"]), f"{row['dropped']:.1%}"]
        for passes, words in zip(PASSES, ("forward", "and backward"), strict=True):
            cells = [cell(row["layers"].get(name, {}).get(passes, {})) for name in names]
            lines.append([*first, words, *cells])
            first = ["", "", ""]
    return markdown(header, lines)


def run(quick: bool) -> Iterator[dict]:
    """Measure the shapes, one after the other while there is time."""
    start = time.perf_counter()
    for case in (SMALL,) if quick else CASES:
        if time.perf_counter() - start > SECONDS:
            print(f"gpu_layers: {case} is left out, since {SECONDS} s are over", flush=True)
            continue
        yield row_of(case, 3 if quick else TURNS)
        print(f"gpu_layers: {case} measured", flush=True)
