"""Grouped matrix products on GPUs, as Pallas kernels that Triton compiles.

    product   a program computes one block of the answer: some rows of one expert's run × some columns
    outer     a program goes down one expert's run and adds up one block of its d × h sums

Runs are cut into blocks of rows from their own first row on, so a block never holds rows of two experts; loads and
stores beyond the end of a run are masked. Rows beyond the last run form a run of their own, which gets zeros.

Axis letters: r rows, e experts, d and h widths, b blocks of rows.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, DTypeLike, Float, Int

ROWS, COLUMNS, TERMS = 128, 128, 32  # of a block of the answer, and of the sum at a time
_COMPILER = plgpu.CompilerParams(num_warps=8, num_stages=3)


def fits(d: int, h: int, dtype: DTypeLike) -> bool:
    """Whether these kernels can multiply rows of d by d × h: any."""
    return True


def matmul(
    x: Float[Array, "r d"],
    w: Float[Array, "e d_or_h h_or_d"],
    sizes: Int[Array, " e"],
    transposed: bool = False,
    *,
    interpret: bool = False,
) -> Float[Array, "r h"]:
    """`grouped_matmul`, without a derivative. `interpret`: as an ordinary JAX program, on any device."""
    (rows, d), experts = x.shape, len(w)
    h = w.shape[1] if transposed else w.shape[2]
    expert, first, end = _blocks_of_rows(sizes, rows)

    def kernel(expert, first, end, x, w, y):
        b, column = pl.program_id(1), pl.program_id(0) * COLUMNS + jnp.arange(COLUMNS)
        e, row = expert[b], first[b] + jnp.arange(ROWS)
        mine, inside = (row < end[b])[:, None], (column < h)[None]

        def add(step, total):
            term = step * TERMS + jnp.arange(TERMS)
            within = term < d
            a = plgpu.load(x.at[row[:, None], term[None]], mask=mine & within[None], other=0.0)
            place = (e, column[None], term[:, None]) if transposed else (e, term[:, None], column[None])
            return total + plgpu.dot(a, plgpu.load(w.at[place], mask=within[:, None] & inside, other=0.0))

        steps = jnp.where(e < experts, pl.cdiv(d, TERMS), 0)
        total = lax.fori_loop(0, steps, add, jnp.zeros((ROWS, COLUMNS), jnp.float32))
        plgpu.store(y.at[row[:, None], column[None]], total.astype(y.dtype), mask=mine & inside)

    return pl.pallas_call(
        kernel,
        grid=(pl.cdiv(h, COLUMNS), len(expert)),
        out_shape=jax.ShapeDtypeStruct((rows, h), x.dtype),
        compiler_params=_COMPILER,
        interpret=interpret,
        name="grouped_matmul",
    )(expert, first, end, x, w)


def outer(
    x: Float[Array, "r d"], dy: Float[Array, "r h"], sizes: Int[Array, " e"], *, interpret: bool = False
) -> Float[Array, "e d h"]:
    """`grouped_outer`, without a derivative."""
    d, h = x.shape[1], dy.shape[1]
    ends = jnp.cumsum(sizes)

    def kernel(starts, ends, x, dy, out):
        e = pl.program_id(2)
        i = pl.program_id(0) * ROWS + jnp.arange(ROWS)
        j = pl.program_id(1) * COLUMNS + jnp.arange(COLUMNS)
        start, end = starts[e], ends[e]

        def add(step, total):
            row = start + step * TERMS + jnp.arange(TERMS)
            mine = (row < end)[:, None]
            a = plgpu.load(x.at[row[:, None], i[None]], mask=mine & (i < d)[None], other=0.0)
            b = plgpu.load(dy.at[row[:, None], j[None]], mask=mine & (j < h)[None], other=0.0)
            return total + plgpu.dot(a, b, trans_a=True)

        total = lax.fori_loop(0, pl.cdiv(end - start, TERMS), add, jnp.zeros((ROWS, COLUMNS), jnp.float32))
        inside = (i < d)[:, None] & (j < h)[None]
        plgpu.store(out.at[e, i[:, None], j[None]], total.astype(out.dtype), mask=inside)

    return pl.pallas_call(
        kernel,
        grid=(pl.cdiv(d, ROWS), pl.cdiv(h, COLUMNS), len(sizes)),
        out_shape=jax.ShapeDtypeStruct((len(sizes), d, h), x.dtype),
        compiler_params=_COMPILER,
        interpret=interpret,
        name="grouped_outer",
    )(ends - sizes, ends, x, dy)


def _blocks_of_rows(sizes: Int[Array, " e"], rows: int) -> tuple[Int[Array, " b"], Int[Array, " b"], Int[Array, " b"]]:
    """Each block's expert, its first row, and the end of its run; e for rows that are left over.

    There are as many blocks as any sizes can need; those that these do not need have no row before their end.
    """
    sizes = jnp.append(sizes, rows - sizes.sum())
    ends, blocks = jnp.cumsum(sizes), pl.cdiv(sizes, ROWS)
    last = jnp.cumsum(blocks)
    b = jnp.arange((rows + len(sizes) * (ROWS - 1)) // ROWS)
    run = jnp.searchsorted(last, b, side="right")
    of_run = jnp.minimum(run, len(sizes) - 1)
    first = (ends - sizes)[of_run] + (b - (last - blocks)[of_run]) * ROWS
    return of_run, first, jnp.where(run < len(sizes), ends[of_run], 0)
