"""One's own case:  python -m benchmarks layers --shape 4096,512,2048,16,2 --dtype bfloat16 --layers gather,grouped

Forward, and forward with the gradients of the tokens and of every parameter; all that is asked for takes turns in one
process, and nothing is kept but what --csv and --profile name. A sparse layer may have several routers, and a choice of
experts that is skewed, or given: one that a run made, or one of your own.

    python -m benchmarks layers --shape 1024,256,1024,8,2 --routers softmax_top_k,sigmoid,hash --layers gather,grouped
    python -m benchmarks layers --shape 1024,256,1024,8,2 --skew 1 --csv skewed.csv
    python -m benchmarks layers --shape 1024,256,1024,8,2 --given experts.npy --profile traces
"""

import argparse
import contextlib
import csv
import difflib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from benchmarks.harness.interleave import interleave, ratio
from benchmarks.harness.words import count, not_negative, positive
from benchmarks.suite.cases import PASSES, Case, as_taken, makers, program, sparse, tokens, unevenness
from benchmarks.suite.limit import limit_of, unavoidable, unavoidable_of_mlp
from moejax.errors import UserError
from moejax.files import place_for
from moejax.layers import DISPATCHES, SparseMoE
from moejax.report.markdown import markdown
from moejax.routers import ROUTERS

NAMES = ("mlp", "einsum", "gather", "grouped", "soft", "dense")
COLUMNS = (
    *("shape", "dtype", "layer", "router", "pass", "ms", "low", "high", "to_mlp", "of_limit", "peak_mb"),
    *("dropped", "max_violation"),
)


def cases(asked: argparse.Namespace) -> list[Case]:
    """Each shape in each type; UserError where tokens make no whole groups."""
    made = [
        Case(*shape, factor=asked.factor, group=asked.group, dtype=dtype, skew=asked.skew)
        for shape in asked.shape
        for dtype in asked.dtype
    ]
    if uneven := next((case for case in made if case.tokens % case.group_size), None):
        raise UserError(
            f"The {uneven.tokens} tokens of the shape {uneven} make no groups of {uneven.group_size}; give a --group"
            " that divides them."
        )
    return made


def rows_of(case: Case, asked: argparse.Namespace, given: Int[Array, "1 t k"] | None) -> Iterator[dict[str, Any]]:
    """One row for each layer, router and pass."""
    made = {("mlp", ""): makers(case)["mlp"]()}
    for name in asked.layers:
        if name in DISPATCHES:
            made |= {(name, router): layer for router in asked.routers if (layer := _sparse(case, name, router))}
        else:
            made[name, ""] = makers(case)[name]()
    x, dy = tokens(case)
    limit = limit_of(case.dtype, asked.turns, asked.side)
    numbers = () if given is None else (int((given >= 0).sum()), len(np.unique(given[given >= 0])))
    more = {"given": given, "key": jax.random.key(0)}  # of a sparse layer alone
    for passes, (f, arguments) in PASSES.items():
        programs = {}
        for (name, router), layer in made.items():
            of_layer = more if router else {}
            programs[name, router] = program(f, layer, *as_taken(name, case, x, dy)[:arguments], **of_layer)
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
                **(unevenness(made[name, router], x, **more) if router else {}),
            }


def _sparse(case: Case, dispatch: str, router: str) -> SparseMoE | None:
    """The layer; None, and a sentence, if there is none of such a dispatch and router."""
    try:
        return sparse(case, dispatch, router)
    except ValueError as error:
        print(f"{dispatch} with {router} is left out: {error}", flush=True)
        return None


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


def read_given(file: Path, case: Case) -> Int[Array, "1 t k"]:
    """A saved choice: each token's experts, -1 in place of one, in an .npy file, or as `experts` of an .npz file.

    UserError for a file that has none, or one for other tokens, experts or k.
    """
    try:
        saved = np.load(file, allow_pickle=False)
        experts = np.asarray(saved["experts"] if isinstance(saved, np.lib.npyio.NpzFile) else saved)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(f"--given {file} holds no array of experts ({error}); make it by numpy.save.") from None
    if not np.issubdtype(experts.dtype, np.integer) or experts.size != case.tokens * case.k:
        raise UserError(
            f"--given {file} holds {experts.dtype}{list(experts.shape)}; the shape {case} needs"
            f" {case.tokens} × {case.k} whole numbers."
        )
    experts = experts.reshape(1, case.tokens, case.k)
    in_order = np.sort(experts, axis=-1)
    twice = (in_order[..., 1:] == in_order[..., :-1]) & (in_order[..., 1:] >= 0)
    if experts.max() >= case.experts or experts.min() < -1 or twice.any():
        raise UserError(
            f"--given {file} holds experts from {experts.min()} to {experts.max()}; a token has different ones from 0"
            f" to {case.experts - 1}, or -1 in place of one."
        )
    return jnp.asarray(experts, jnp.int32)


def main(words: Sequence[str]) -> int:
    """Measure, print the table, and write what is asked for."""
    asked = parser().parse_args(words)
    if asked.given and len(asked.shape) > 1:
        raise UserError("--given is a choice for the tokens of one --shape, but there are several; leave one.")
    if asked.csv:
        place_for("--csv", str(asked.csv))
    if asked.profile:
        place_for("--profile", str(asked.profile), folder=True)
    asked.side = 512 if asked.quick else None
    rows: list[dict] = []
    for case in cases(asked):
        given = read_given(asked.given, case) if asked.given else None
        with profiled(asked.profile):
            rows += rows_of(case, asked, given)
    print(table(rows))
    if asked.csv:
        with open(asked.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        print(asked.csv)
    if asked.profile:
        print(f"{asked.profile}: open it with  tensorboard --logdir {asked.profile}  or at ui.perfetto.dev")
    return 0


def profiled(folder: Path | None) -> contextlib.AbstractContextManager:
    """A trace of JAX is written there, if anywhere."""
    return jax.profiler.trace(str(folder)) if folder else contextlib.nullcontext()


def parser() -> argparse.ArgumentParser:
    """The words of a case."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks layers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", nargs="+", required=True, type=_shape, metavar="T,d,h,E,k", help="one or several")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument(
        "--layers",
        "--dispatch",
        type=_names(NAMES),
        default=NAMES,
        metavar="NAME,…",
        help=f"of {', '.join(NAMES)} (default: all)",
    )
    parser.add_argument(
        "--routers",
        type=_names(ROUTERS),
        default=("softmax_top_k",),
        metavar="NAME,…",
        help=f"of {', '.join(ROUTERS)} (default: softmax_top_k)",
    )
    parser.add_argument("--factor", type=positive, default=1.25, help="capacity factor (default: 1.25)")
    parser.add_argument(
        "--group", type=count, metavar="N", help="tokens that compete for slots together (default: h / 4)"
    )
    parser.add_argument("--skew", type=not_negative, default=0.0, help="expert e has odds (e + 1)^-skew (default: 0)")
    parser.add_argument("--given", type=Path, metavar="FILE", help="each token's experts, an .npy or .npz file")
    parser.add_argument("--turns", type=int, choices=range(1, 1000), metavar="N", default=7, help="(default: 7)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="every row, with quartiles")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="a trace of JAX")
    parser.add_argument("--quick", action="store_true", help="a rougher limit, to see that it works")
    return parser


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) != 5 or min(shape) < 1 or shape[4] > shape[3]:
        raise argparse.ArgumentTypeError(f"{text!r} must be five whole numbers T,d,h,E,k with k at most E")
    return shape


def _names(known: Collection[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        for name in (found := text.split(",")):
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                mean = f"did you mean {near[0]}?" if near else f"choose of {', '.join(known)}"
                raise argparse.ArgumentTypeError(f"there is no {name!r}; {mean}")
        return found

    return names
