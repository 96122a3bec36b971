"""Grouped matrix product: rows sorted by expert, each run of rows times that expert's matrix.

    out[r] = x[r] @ w[expert of r]          `grouped_matmul`
    out[e] = Σ of x[r]ᵀ dy[r] over e's rows   `grouped_outer`, the derivative by w

The two are each other's derivatives, so both can be differentiated any number of times. Runs may have any length, also
none; rows beyond the last run give zeros.

On CPU NumPy computes them (`grouped_cpu`), on NVIDIA GPUs kernels (`grouped_gpu`), elsewhere `lax.ragged_dot`.

Axis letters: r rows, e experts, d and h widths.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float, Int

from moejax.dispatch import grouped_cpu, grouped_gpu, grouped_ragged


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def grouped_matmul(
    x: Float[Array, "r d"], w: Float[Array, "e d_or_h h_or_d"], sizes: Int[Array, " e"], transposed: bool = False
) -> Float[Array, "r h"]:
    """Multiply the first `sizes[0]` rows by w[0], the next `sizes[1]` by w[1], and so on; zeros for rows that are left.

    `transposed` multiplies by w[e]ᵀ: w is [e, h, d] then, else [e, d, h]. The sum of `sizes` must not exceed r.
    """
    return lax.platform_dependent(
        x,
        w,
        sizes,
        cpu=partial(grouped_cpu.matmul, transposed=transposed),
        cuda=sequential_vmap(partial(grouped_gpu.matmul, transposed=transposed)),
        default=sequential_vmap(partial(grouped_ragged.matmul, transposed=transposed)),  # they know no other vmap
    )


@jax.custom_vjp
def grouped_outer(x: Float[Array, "r d"], dy: Float[Array, "r h"], sizes: Int[Array, " e"]) -> Float[Array, "e d h"]:
    """For each expert the sum over its rows of the outer products x[r]ᵀ dy[r]; exactly zero if it has none."""
    return lax.platform_dependent(
        x,
        dy,
        sizes,
        cpu=grouped_cpu.outer,
        cuda=sequential_vmap(grouped_gpu.outer),
        default=sequential_vmap(grouped_ragged.outer),
    )


def _matmul_forward(x, w, sizes, transposed):
    return grouped_matmul(x, w, sizes, transposed), (x, w, sizes)


def _matmul_backward(transposed, residual, dy):
    x, w, sizes = residual
    dw = grouped_outer(dy, x, sizes) if transposed else grouped_outer(x, dy, sizes)
    return grouped_matmul(dy, w, sizes, not transposed), dw, None


def _outer_forward(x, dy, sizes):
    return grouped_outer(x, dy, sizes), (x, dy, sizes)


def _outer_backward(residual, dout):
    x, dy, sizes = residual
    return grouped_matmul(dy, dout, sizes, True), grouped_matmul(x, dout, sizes), None


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def rows_of_groups(bias: Float[Array, "e h"], sizes: Int[Array, " e"], rows: int) -> Float[Array, "{rows} h"]:
    """Each row its expert's vector; of rows beyond the last run, anything. The derivative is a grouped sum."""
    return bias[jnp.searchsorted(jnp.cumsum(sizes), jnp.arange(rows), side="right").clip(max=len(bias) - 1)]


def _rows_forward(bias, sizes, rows):
    return rows_of_groups(bias, sizes, rows), sizes


def _rows_backward(rows, sizes, dy):
    return grouped_outer(jnp.ones((rows, 1), dy.dtype), dy, sizes)[:, 0], None


rows_of_groups.defvjp(_rows_forward, _rows_backward)
grouped_matmul.defvjp(_matmul_forward, _matmul_backward)
grouped_outer.defvjp(_outer_forward, _outer_backward)
