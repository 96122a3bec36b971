"""How do our layers compare with other libraries'?  python -m benchmarks peers   (12 minutes on two CPU cores)

Forward and backward: the output, and the gradients of the tokens and of every parameter, in float32, of a cotangent
that is random. Ours are MLP experts with each dispatch; a factor is a peer's time over that of our best dispatch of the
shape, median of the ratios within each turn; Mixtral's block and `ragged_dot` drop nothing, as our `grouped` does, and
the results hold their factors over that too. What is matched and what is not stands in `peers.layers`: the choice of
experts, the slots, the FLOPs of a token. PyTorch runs on as many threads as there are cores. All take turns in one
process, with a rest before each for the other library's threads. `ragged_dot` is our grouped layer with
`lax.ragged_dot` as its product; on CPU it does E times the work, and is left out where that would take minutes.
"""

from collections.abc import Callable, Iterator
from types import ModuleType

import jax
import numpy as np

from benchmarks.harness.interleave import interleave, ratio
from benchmarks.peers.grouped_products import forward_with, ragged_dot
from benchmarks.suite.cases import Case, forward_backward, layers, program, tokens, unevenness, with_gradients
from benchmarks.suite.limit import unavoidable
from moejax.kernels.blas_threads import cores
from moejax.report.markdown import markdown

TURNS, REST = 7, 0.05
CASES = (
    Case(256, 784, 256, 8, 2),
    Case(1024, 256, 1024, 8, 2),
    Case(4096, 256, 1024, 16, 2),
    Case(4096, 256, 1024, 16, 2, skew=1.0),
    Case(4096, 512, 1024, 64, 2),
    Case(8192, 512, 2048, 16, 2),
    Case(16384, 512, 1024, 32, 2),
)
SMALL = Case(64, 32, 64, 4, 2)
OURS = ("einsum", "gather", "grouped")
MOST_RAGGED = 5e11  # FLOPs that `ragged_dot` may take on CPU


def pytorch() -> ModuleType | None:
    """The PyTorch peers; None, and one sentence, where PyTorch is missing or JAX is not on the CPU."""
    if jax.default_backend() != "cpu":
        print("peers: the PyTorch layers run on the CPU only, and JAX does not, so they are left out.", flush=True)
        return None
    try:
        from benchmarks.peers import layers as theirs
    except ImportError as error:
        print(f"peers: PyTorch's columns stay empty ({error}); pip install 'moejax[peers]' brings it.", flush=True)
        return None
    return theirs


def their_calls(theirs: ModuleType, peers: dict, *arguments: object) -> tuple[dict[str, Callable], dict[str, str]]:
    """The peers' calls that can be made, and the versions of their packages."""
    calls, versions = {}, {}
    for name, peer in peers.items():
        try:
            calls[name] = theirs.call(peer, *arguments)
        except ImportError as error:
            print(f"peers: {name} stays empty ({error}); pip install 'moejax[peers]' brings it.", flush=True)
        else:
            versions[peer.package] = theirs.version(peer)
    return calls, versions


def family(calls: dict[str, Callable], ours: dict[str, Callable], peaks: dict[str, float], turns: int) -> dict:
    """Ours and theirs in turns: milliseconds, our best, their time over its, and the peak memory of ours."""
    seconds = interleave(ours | calls, turns, rest=REST)
    best = min(ours, key=lambda name: np.median(seconds[name]))
    dropless = {name: ratio(seconds[name], seconds["grouped"]) for name in calls} if "grouped" in ours else {}
    return {
        "ms": {name: float(1e3 * np.median(times)) for name, times in seconds.items()},
        "peak_mb": peaks,
        "best": best,
        "to_ours": {name: ratio(seconds[name], seconds[best]) for name in calls},
        "to_grouped": dropless,
    }


def row_of(case: Case, theirs: ModuleType | None, turns: int = TURNS) -> dict:
    """One shape: the sparse layers, then the soft ones."""
    made, (x, dy) = layers(case), tokens(case)
    slots = made["gather"].capacity(case.group_size, train=True)
    programs = {name: program(forward_backward, made[name], x, dy) for name in OURS}
    groups = [a.reshape(-1, case.group_size, case.d) for a in (x, dy)]
    soft = program(forward_backward, made["soft"], *groups)
    sparse_calls, soft_calls, versions = {}, {}, {}
    flops = 3 * case.experts * unavoidable(case, "forward")[0]
    if jax.default_backend() != "cpu" or flops <= MOST_RAGGED:
        f = with_gradients(forward_with(ragged_dot()))
        sparse_calls["ragged_dot"] = program(f, made["grouped"], x, dy).call
    if theirs is not None:
        arrays = np.asarray(x), np.asarray(dy)
        router = np.asarray(made["gather"].router.kernel)
        soft_slots = made["soft"].router.kernel.shape[-1]
        more, versions = their_calls(theirs, theirs.SPARSE, case, slots, *arrays, router)
        sparse_calls |= more
        soft_calls, of_soft = their_calls(theirs, theirs.SOFT, case, soft_slots, *arrays, None)
        versions |= of_soft
    calls, peaks = ({name: of(p) for name, p in programs.items()} for of in (lambda p: p.call, peak_mb))
    return {
        "case": case._asdict() | {"group": case.group_size},
        "slots": slots,
        **unevenness(made["gather"], x),
        "threads": cores(),
        "versions": versions,
        "sparse": family(sparse_calls, calls, peaks, turns),
        "soft": family(soft_calls, {"soft": soft.call}, {"soft": peak_mb(soft)}, turns),
    }


def peak_mb(made: object) -> float:
    """The peak memory of a program."""
    return made.peak_bytes / 1e6


def table(rows: list[dict]) -> str:
    """One line a shape: our milliseconds, and the peers' as multiples of our best."""
    sparse = list(dict.fromkeys(name for row in rows for name in row["sparse"]["to_ours"]))
    soft = list(dict.fromkeys(name for row in rows for name in row["soft"]["to_ours"]))
    header = ["T, d, h, E, k", "dropped", *(f"{name}, ms" for name in OURS), *sparse, "soft, ms", *soft]

    def factors(found: dict, names: list[str]) -> list[str]:
        return [f"{found['to_ours'][name]['median']:.2f}×" if name in found["to_ours"] else "" for name in names]

    def line(row: dict) -> list[str]:
        ours, ours_soft = row["sparse"], row["soft"]
        times = [f"**{ours['ms'][n]:.1f}**" if n == ours["best"] else f"{ours['ms'][n]:.1f}" for n in OURS]
        case = Case(**row["case"])
        shape = f"{case}, skew {case.skew:g}" if case.skew else str(case)
        cells = [shape, f"{row['dropped']:.1%}", *times, *factors(ours, sparse)]
        return [*cells, f"{ours_soft['ms']['soft']:.1f}", *factors(ours_soft, soft)]

    return markdown(header, map(line, rows))


def run(quick: bool) -> Iterator[dict]:
    """Measure all shapes."""
    theirs = pytorch()
    for case in (SMALL,) if quick else CASES:
        yield row_of(case, theirs, 3 if quick else TURNS)
        print(f"peers: {case} measured", flush=True)
