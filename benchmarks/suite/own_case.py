"""One's own case, measured and told: each layer that was asked for, in turns, with the choice that was given."""

import argparse
import contextlib
import csv
import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Int

from benchmarks.harness.interleave import interleave, ratio
from benchmarks.suite.cases import PASSES, Case, as_taken, forward, makers, program, sparse, tokens, unevenness
from benchmarks.suite.limit import limit_of, unavoidable, unavoidable_of_mlp
from benchmarks.suite.own_words import loads, understood
from moejax.errors import UserError
from moejax.files import place_for, write_whole
from moejax.layers import DISPATCHES
from moejax.report.markdown import markdown

COLUMNS = (
    *("shape", "dtype", "layer", "router", "pass", "ms", "low", "high", "to_mlp", "of_limit", "peak_mb"),
    *("dropped", "max_violation"),
)
Way = tuple[str, str]  # layer, router
Makers = dict[Way, Callable[[], nnx.Module]]


def ways(case: Case, asked: argparse.Namespace, given: Int[Array, "1 t k"] | None) -> Makers:
    """What makes each layer that was asked for, and the MLP; one that cannot be measured is left out, in a sentence.

    Raises:
      UserError: no sparse layer of those asked for can be.
    """
    make = makers(case)
    wanted: Makers = {("mlp", ""): make["mlp"]}
    for name in asked.layers:
        if name in DISPATCHES:
            wanted |= {(name, router): partial(sparse, case, name, router) for router in asked.routers}
        else:
            wanted[name, ""] = make[name]
    problems = {way: problem for way, of in wanted.items() if (problem := _problem(case, way, of, given))}
    if any(router for _, router in wanted) and not any(router for _, router in wanted.keys() - problems):
        way, problem = next((way, problem) for way, problem in problems.items() if way[1])
        raise UserError(f"{_name(way)} cannot be measured: {problem}")
    for way, problem in problems.items():
        print(f"{_name(way)} is left out: {problem}", flush=True)
    return {way: of for way, of in wanted.items() if way not in problems}


def _problem(case: Case, way: Way, make: Callable[[], nnx.Module], given: Int[Array, "1 t k"] | None) -> str:
    """Why there is no such layer or why it does not take the tokens, by tracing alone; empty if it does."""
    name, router = way

    def answer() -> Array:
        return forward(make(), *as_taken(name, case, tokens(case)[0]), **_more(router, given))

    try:
        jax.eval_shape(answer)
    except ValueError as error:
        return str(error)
    return ""


def _more(router: str, given: Int[Array, "1 t k"] | None) -> dict[str, Array | None]:
    """What a sparse layer, one with a router, is told beside the tokens."""
    return {"given": given, "key": jax.random.key(0)} if router else {}


def _name(way: Way) -> str:
    return " with ".join(filter(None, way))


def rows_of(
    case: Case, asked: argparse.Namespace, given: Int[Array, "1 t k"] | None, make: Makers
) -> Iterator[dict[str, Any]]:
    """One row for each layer, router and pass."""
    made = {way: of() for way, of in make.items()}
    x, dy = tokens(case)
    limit = limit_of(case.dtype, asked.turns, asked.side)
    numbers = () if given is None else (int((given >= 0).sum()), len(np.unique(given[given >= 0])))
    for passes, (f, arguments) in PASSES.items():
        programs = {}
        for (name, router), layer in made.items():
            taken = as_taken(name, case, x, dy)[:arguments]
            programs[name, router] = program(f, layer, *taken, **_more(router, given))
        seconds = interleave({name: p.call for name, p in programs.items()}, asked.turns)
        work = {"mlp": unavoidable_of_mlp(case, passes), "dense": unavoidable(case, passes)}
        for (name, router), times in seconds.items():
            least = limit.seconds(*work.get(name, unavoidable(case, passes, *numbers)))
            low, median, high = np.percentile(1e3 * times, [25, 50, 75])
            yield {
                "shape": str(case),
                "dtype": case.dtype,
                "layer": name,
                "router": router,
                "pass": passes,
                "ms": float(median),
                "low": float(low),
                "high": float(high),
                "to_mlp": ratio(times, seconds["mlp", ""])["median"],
                "of_limit": float(1e3 * least / median),
                "peak_mb": programs[name, router].peak_bytes / 1e6,
                **(unevenness(made[name, router], x, **_more(router, given)) if router else {}),
            }


def table(rows: Sequence[dict]) -> str:
    """One line a layer and router: both passes."""
    header = ["T, d, h, E, k", "type", "layer", "router", "forward, ms", "and backward, ms", "× mlp", "of limit", "MB"]
    by_line: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        by_line.setdefault(tuple(row[name] for name in COLUMNS[:4]), {})[row["pass"]] = row

    def line(names: tuple, passes: dict[str, dict]) -> list[str]:
        both = passes["forward_backward"]
        times = [f"{passes[name]['ms']:.2f}" for name in PASSES]
        lost = [f"{both['dropped']:.1%}", f"{both['max_violation']:.2f}"] if "dropped" in both else ["", ""]
        return [*names, *times, f"{both['to_mlp']:.2f}×", f"{both['of_limit']:.0%}", f"{both['peak_mb']:,.0f}", *lost]

    return markdown([*header, "dropped", "MaxVio"], [line(*item) for item in by_line.items()])


def main(words: Sequence[str]) -> int:
    """Measure, print the table, and write what is asked for."""
    asked = understood(words)
    if asked.csv:
        place_for("--csv", str(asked.csv))
    if asked.profile:
        place_for("--profile", str(asked.profile), folder=True)
    asked.side = 512 if asked.quick else None
    plan = [(case, given, ways(case, asked, given)) for case, given in loads(asked)]
    rows: list[dict] = []
    for case, given, make in plan:
        with profiled(asked.profile), in_memory(case):
            rows += rows_of(case, asked, given, make)
    print(table(rows))
    if asked.csv:
        write_whole(asked.csv, as_csv(rows))
        print(asked.csv)
    if asked.profile:
        print(f"{asked.profile}: open it with  tensorboard --logdir {asked.profile}  or at ui.perfetto.dev")
    return 0


def as_csv(rows: Sequence[dict]) -> str:
    """Every row, under the names of `COLUMNS`."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@contextlib.contextmanager
def in_memory(case: Case) -> Iterator[None]:
    """Inside, UserError where the device's memory is too small for the case."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "out of memory" not in str(error).lower():
            raise
        raise UserError(f"The shape {case} does not fit into this device's memory; give a smaller one.") from None


def profiled(folder: Path | None) -> contextlib.AbstractContextManager:
    """A trace of JAX is written there, if anywhere."""
    return jax.profiler.trace(str(folder)) if folder else contextlib.nullcontext()
