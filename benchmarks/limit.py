"""What can this device do?  python -m benchmarks limit   (20 seconds)

The measured rate of large matrix products and the measured bandwidth of memory. From the two follows the least time in
which a layer's unavoidable work can be done: its FLOPs at that rate or its bytes at that bandwidth, whichever is more.
Other benchmarks print their rows as a fraction of it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import Case, program
from benchmarks.interleave import interleave
from moejax.products import matmul
from moejax.report.markdown import markdown

TURNS = 7


class Limit(NamedTuple):
    """Measured on this device."""

    flops: float  # per second, of a matrix product
    bandwidth: float  # bytes per second, read and written

    def seconds(self, flops: float, moved: float) -> float:
        """The least time for so many FLOPs and bytes."""
        return max(flops / self.flops, moved / self.bandwidth)


def measure(dtype: str, turns: int = TURNS, side: int | None = None) -> Limit:
    """The best of some turns, for operands of that type; `side` of the square matrices.

    Products with a result of that type and with one in float32, which may be the only one that a CPU has units for.
    """
    accelerator = jax.default_backend() != "cpu"
    side = side or (8192 if accelerator else 2048)
    a, b = jax.random.normal(jax.random.key(0), (2, side, side), dtype)
    rows = 16 * side
    x, y = jax.random.normal(jax.random.key(1), (2, rows, side // 4), "float32")
    calls = {
        "same": program(jnp.matmul, a, b).call,
        "wide": program(matmul, a, b).call,
        "sum": program(lambda x, y: x + y, x, y).call,
    }
    seconds = {name: float(times.min()) for name, times in interleave(calls, turns).items()}
    return Limit(2 * side**3 / min(seconds["same"], seconds["wide"]), 3 * x.nbytes / seconds["sum"])


def unavoidable(case: Case, passes: str) -> tuple[float, float]:
    """FLOPs and bytes that any dropless layer with these experts must spend: `passes` "forward" or "forward_backward".

    FLOPs: two products for each token and expert of its k, three times that with the backward pass. Bytes: every
    expert's weights are read once, and a second time and their gradients written with the backward pass; tokens are
    read and outputs written, and so are their gradients.
    """
    size, backward = np.dtype(jnp.dtype(case.dtype)).itemsize, passes == "forward_backward"
    flops = 4 * case.tokens * case.k * case.d * case.h
    weights, activations = 2 * case.experts * case.d * case.h * 4, 2 * case.tokens * case.d * size
    return (3 * flops, 3 * weights + 2 * activations) if backward else (flops, weights + activations)


def table(rows: list[dict]) -> str:
    """One line a type."""
    lines = [[r["dtype"], f"{r['flops'] / 1e9:,.0f}", f"{r['bandwidth'] / 1e9:,.1f}"] for r in rows]
    return markdown(["type", "matrix product, GFLOP/s", "memory, GB/s"], lines)


def run(quick: bool) -> list[dict]:
    """Measure both types."""
    return [
        {"dtype": dtype, **measure(dtype, 3 if quick else TURNS, 512 if quick else None)._asdict()}
        for dtype in ("float32", "bfloat16")
    ]
