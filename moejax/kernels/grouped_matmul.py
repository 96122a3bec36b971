"""Grouped matrix product: rows sorted by expert, each run of rows times that expert's matrix.

    out[r] = x[r] @ w[expert of r]          `grouped_matmul`
    out[e] = Σ of x[r]ᵀ dy[r] over e's rows   `grouped_outer`, the derivative by w

The two are each other's derivatives, so both can be differentiated any number of times, in both directions. Runs may
have any length, also none; rows beyond the last run give zeros.

On CPU a library of products computes them (`cpu`), on NVIDIA GPUs kernels (`gpu`), elsewhere
`lax.ragged_dot`.

Axis letters: r rows, e experts, d and h widths.
"""

from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moejax.kernels import cpu, gpu, ragged
from moejax.kernels.multilinear import multilinear


def grouped_matmul(
    x: Float[Array, "r d"], w: Float[Array, "e d_or_h h_or_d"], sizes: Int[Array, " e"], transposed: bool = False
) -> Float[Array, "r h"]:
    """Multiply the first `sizes[0]` rows by w[0], the next `sizes[1]` by w[1], and so on; zeros for rows that are left.

    `transposed` multiplies by w[e]ᵀ: w is [e, h, d] then, else [e, d, h]. The sum of `sizes` must not exceed r.
    """
    return (_matmul_transposed if transposed else _matmul)(x, w, sizes)


@multilinear(
    lambda ct, x, w, sizes: _matmul_transposed(ct, w, sizes),
    lambda ct, x, w, sizes: _outer(x, ct, sizes),
)
def _matmul(x, w, sizes):
    return ragged.matmul(x, w, sizes)


@multilinear(
    lambda ct, x, w, sizes: _matmul(ct, w, sizes),
    lambda ct, x, w, sizes: _outer(ct, x, sizes),
)
def _matmul_transposed(x, w, sizes):
    return ragged.matmul(x, w, sizes, True)


def grouped_outer(x: Float[Array, "r d"], dy: Float[Array, "r h"], sizes: Int[Array, " e"]) -> Float[Array, "e d h"]:
    """For each expert the sum over its rows of the outer products x[r]ᵀ dy[r]; exactly zero if it has none."""
    return _outer(x, dy, sizes)


@multilinear(
    lambda ct, x, dy, sizes: _matmul_transposed(dy, ct, sizes),
    lambda ct, x, dy, sizes: _matmul(x, ct, sizes),
)
def _outer(x, dy, sizes):
    return ragged.outer(x, dy, sizes)


_matmul.on_cpu(cpu.matmul)
_matmul.on_cuda(gpu.matmul)
_matmul_transposed.on_cpu(partial(cpu.matmul, transposed=True))
_matmul_transposed.on_cuda(partial(gpu.matmul, transposed=True))
_outer.on_cpu(cpu.outer)
_outer.on_cuda(gpu.outer)


def rows_of_groups(bias: Float[Array, "e h"], sizes: Int[Array, " e"], rows: int) -> Float[Array, "{rows} h"]:
    """Each row its expert's vector; of rows beyond the last run, anything. The derivative is a grouped sum."""
    expert = jnp.searchsorted(jnp.cumsum(sizes), jnp.arange(rows), side="right").clip(max=bias.shape[0] - 1)
    return _vectors(bias, expert, sizes)


@multilinear(
    lambda ct, bias, expert, sizes: _outer(jnp.ones((ct.shape[0], 1), ct.dtype), ct, sizes)[:, 0],
)
def _vectors(bias, expert, sizes):
    return bias[expert]
