"""Grouped matrix product: rows sorted by expert, each group of rows times that expert's matrix.

    out[r] = x[r] @ w[expert of r]              `grouped_matmul`
    out[e] = Σ of x[r]ᵀ dy[r] over e's rows     `grouped_outer`, the derivative by w

The two are each other's derivatives, so both can be differentiated any number of times, in both directions. Groups may
have any size, also none; rows beyond the last group give zeros.

What computes them is chosen when a program is lowered. Each choice is a module with `matmul` and `outer` of rows in
groups, without a derivative; those of CPUs are without a vmap too, and chosen by all rows that are mapped over.

Axis letters: r rows, e experts, d and h widths.
"""

from collections.abc import Callable
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from moejax.kernels import cpu_blas, cpu_blocks, gpu, int8, ragged
from moejax.kernels.groups import Groups, few, folded
from moejax.kernels.multilinear import Lowering, multilinear, products
from moejax.known import known


def grouped_matmul(
    x: Float[Array, "r d"], w: Shaped[Array, "e d_or_h h_or_d"], groups: Groups, transposed: bool = False
) -> Float[Array, "r h"]:
    """Multiply the rows of each group by its expert's matrix; zeros for rows that are left over.

    w: of x's dtype, or int8, which has no derivative. `transposed` multiplies by w[e]ᵀ: w is [e, h, d] then, else
    [e, d, h].

    Raises ValueError for groups beyond the r rows or within each other; where their values are not known, as under
    `jax.jit`, what such groups get is not said.
    """
    if known(*groups):
        _check(np.asarray(groups.starts), np.asarray(groups.sizes), len(x))
    return (_matmul_transposed if transposed else _matmul)(x, w, *groups)


def _check(starts: Int[np.ndarray, " e"], sizes: Int[np.ndarray, " e"], rows: int) -> None:
    ends = starts + sizes
    if ends[-1] > rows or (ends[:-1] > starts[1:]).any():
        raise ValueError(
            f"the groups end at {ends.tolist()} and start at {starts.tolist()}; each must start where the one before it"
            f" has ended, and the last end at {rows} rows or before, as those of Groups.of(sizes) do."
        )


def grouped_outer(x: Float[Array, "r d"], dy: Float[Array, "r h"], groups: Groups) -> Float[Array, "e d h"]:
    """For each expert the sum over its rows of the outer products x[r]ᵀ dy[r]; exactly zero if it has none."""
    return _outer(x, dy, *groups)


_matmul, _matmul_transposed, _outer = products(
    "grouped",
    lambda x, w, *groups: ragged.matmul(x, w.astype(x.dtype), Groups(*groups), False),
    lambda x, w, *groups: ragged.matmul(x, w.astype(x.dtype), Groups(*groups), True),
    lambda x, dy, *groups: ragged.outer(x, dy, Groups(*groups)),
)


LARGE = 3e6  # numbers in a matrix, by which the library multiplies a row sooner: 1.5 to 3 times at 4e6, alike at 2e6


def on_cpu(lowering: Lowering, a: Array, b: Array) -> ModuleType:
    """What computes a product on CPUs. An exported program may run where this one's Python is not."""
    if not isinstance(a.shape[0], int):  # exported with an open batch size
        return ragged
    if lowering.exported or not cpu_blas.serves(a.dtype) or int8.pays(a, b):
        return cpu_blocks
    if b.ndim == 3 and few(len(a), len(b)) and (b.dtype == jnp.bfloat16 or b[0].size < LARGE):
        return cpu_blocks
    return cpu_blas


def on_cuda(lowering: Lowering, a: Array, b: Array) -> ModuleType:
    """What computes a product on NVIDIA GPUs; exported programs are for any of them."""
    return ragged if lowering.exported else gpu.chosen(a.dtype, a.shape[-1], *b.shape[1:])


def _by(choose: Callable[..., ModuleType], name: str, *options: bool) -> Callable[..., Array]:
    def product(lowering, a, b, *groups):
        def of_rows(a, b, groups):
            kernels = choose(lowering, a, b)
            b = b if kernels is cpu_blocks else b.astype(a.dtype)
            return getattr(kernels, name)(a, b, groups, *options)

        fold = folded if choose is on_cpu and isinstance(a.shape[0], int) else lambda f: f
        return fold(of_rows)(a, b, Groups(*groups))

    return product


for _product, _call in ((_matmul, ("matmul", False)), (_matmul_transposed, ("matmul", True)), (_outer, ("outer",))):
    _product.on("cpu", _by(on_cpu, *_call))
    _product.on("cuda", _by(on_cuda, *_call))


def choices() -> dict[str, str]:
    """What computes grouped products on this machine, by type of number; of several, the first that fits the widths.

    On a GPU this tries the kernels that there are.
    """
    platform, here = jax.default_backend(), {}
    for dtype in ("float32", "bfloat16"):
        if platform == "cpu":
            one = jnp.zeros((1, 1), dtype)
            here[dtype] = on_cpu(Lowering(exported=False, devices=1), one, one).__name__.rpartition(".")[2]
        else:
            here[dtype] = ", ".join([*gpu.working(dtype), "ragged"])
    return here


def rows_of_groups(bias: Float[Array, "e h"], groups: Groups, rows: int) -> Float[Array, "{rows} h"]:
    """Each row its expert's vector; of rows beyond the last group, anything. The derivative is a grouped sum."""
    expert = jnp.repeat(jnp.arange(len(bias)), groups.sizes, total_repeat_length=rows)
    return _vectors(bias, expert, *groups)


@multilinear(
    lambda ct, bias, expert, *groups: _outer(jnp.ones((ct.shape[0], 1), ct.dtype), ct, *groups)[:, 0],
)
def _vectors(bias, expert, *groups):
    return bias[expert]
