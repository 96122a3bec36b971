"""What can this device do?  python -m benchmarks limit   (20 seconds)

The measured rate of large matrix products, by whichever of our libraries is the fastest, and the measured bandwidth of
memory. From the two follows the least time in which a layer's unavoidable work can be done: its FLOPs at that rate or
its bytes at that bandwidth, whichever is more. Other benchmarks print their rows as a fraction of it. PyTorch's rate
stands beside, where it is installed: what its layers have that ours have not.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness.interleave import interleave
from benchmarks.suite.cases import Case, program
from moejax.kernels.bfloat16 import matmul
from moejax.kernels.blas_threads import cores
from moejax.kernels.grouped_matmul import grouped_matmul
from moejax.kernels.groups import Groups
from moejax.report.markdown import markdown

TURNS, REST = 7, 0.1  # a library's threads may wait for more at full speed, and slow down who comes next
LIBRARIES = ("XLA", "NumPy", "PyTorch")


class Limit(NamedTuple):
    """Measured on this device."""

    flops: float  # per second, of a matrix product
    bandwidth: float  # bytes per second, read and written

    def seconds(self, flops: float, moved: float) -> float:
        """The least time for so many FLOPs and bytes."""
        return max(flops / self.flops, moved / self.bandwidth)


def limit_of(dtype: str, turns: int = TURNS, side: int | None = None) -> Limit:
    """The best of some turns, for operands of that type; `side` of the square matrices."""
    side = side or whole_side()
    return Limit(max(rates(products(dtype, side), side, turns).values()), bandwidth(side, turns))


def whole_side() -> int:
    """Of matrices large enough for this device."""
    return 2048 if jax.default_backend() == "cpu" else 8192


def bandwidth(side: int, turns: int) -> float:
    """Bytes a second of a sum of two large arrays."""
    x, y = jax.random.normal(jax.random.key(1), (2, 16 * side, side // 4), "float32")
    seconds = interleave({"sum": program(lambda x, y: x + y, x, y).call}, turns)["sum"]
    return float(3 * x.nbytes / seconds.min())


def rates(calls: dict[str, Callable], side: int, turns: int) -> dict[str, float]:
    """FLOPs a second of each library, its best turn; it may have two calls, told apart by what follows a comma."""
    best: dict[str, float] = {}
    for name, seconds in interleave(calls, turns, rest=REST).items():
        library = name.partition(",")[0]
        best[library] = max(best.get(library, 0.0), float(2 * side**3 / seconds.min()))
    return best


def products(dtype: str, side: int) -> dict[str, Callable]:
    """The products that our layers are made of.

    XLA's with a result of that type and with one in float32, which may be the only one that a CPU has units for.
    NumPy's as our grouped products use it: on CPU, for float32.
    """
    a, b = jax.random.normal(jax.random.key(0), (2, side, side), dtype)
    calls = {"XLA": program(jnp.matmul, a, b).call, "XLA, to float32": program(matmul, a, b).call}
    if jax.default_backend() == "cpu" and dtype == "float32":
        one_group = Groups.of(jnp.array([side], jnp.int32))
        calls["NumPy"] = program(grouped_matmul, a, b[None], one_group).call
    return calls


def pytorch(side: int) -> dict[str, Callable]:
    """PyTorch's product in float32, on as many threads as there are cores; nothing where it is not installed."""
    try:
        import torch
    except ImportError:
        return {}
    torch.set_num_threads(cores())
    a, b = torch.randn((2, side, side), generator=torch.Generator().manual_seed(0))
    return {"PyTorch": lambda: a @ b}


def unavoidable(case: Case, passes: str, choices: int | None = None, chosen: int | None = None) -> tuple[float, float]:
    """FLOPs and bytes that any dropless layer with these experts must spend: `passes` "forward" or "forward_backward".

    FLOPs: two products for each token and expert of its k, three times that with the backward pass. Bytes: the weights
    of every expert that is chosen are read once, and a second time with the backward pass, which writes the gradients
    of all; tokens are read and outputs written, and so are their gradients.

    Args:
      choices: of all tokens together; None: k for each.
      chosen: experts that any token chose; None: as many as can be.
    """
    size, backward = np.dtype(jnp.dtype(case.dtype)).itemsize, passes == "forward_backward"
    choices = case.tokens * case.k if choices is None else choices
    chosen = min(case.experts, choices) if chosen is None else chosen
    flops, expert = 4 * choices * case.d * case.h, 2 * case.d * case.h * 4
    activations = 2 * case.tokens * case.d * size
    if not backward:
        return flops, chosen * expert + activations
    return 3 * flops, (2 * chosen + case.experts) * expert + 2 * activations


def unavoidable_of_mlp(case: Case, passes: str) -> tuple[float, float]:
    """The same of `cases.makers`' MLP, which is as wide as the k experts of a token."""
    return unavoidable(case._replace(experts=case.k), passes)


def table(rows: list[dict]) -> str:
    """One line a type."""

    def line(row: dict) -> list[str]:
        rates = [f"{row['libraries'][name] / 1e9:,.0f}" if name in row["libraries"] else "" for name in LIBRARIES]
        return [row["dtype"], *rates, f"{row['bandwidth'] / 1e9:,.1f}"]

    return markdown(["type", *(f"{name}, GFLOP/s" for name in LIBRARIES), "memory, GB/s"], map(line, rows))


def run(quick: bool) -> Iterator[dict]:
    """Measure both types."""
    turns, side = (3, 512) if quick else (TURNS, whole_side())
    for dtype in ("float32", "bfloat16"):
        calls = products(dtype, side)
        if jax.default_backend() == "cpu" and dtype == "float32":  # as its layers are measured; others may take minutes
            calls |= pytorch(side)
        libraries = rates(calls, side, turns)
        flops = max(rate for name, rate in libraries.items() if name != "PyTorch")
        yield {"dtype": dtype, **Limit(flops, bandwidth(side, turns))._asdict(), "libraries": libraries}
