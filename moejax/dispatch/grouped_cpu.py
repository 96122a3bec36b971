"""Grouped matrix products on CPUs: each run of rows cut into blocks.

`lax.ragged_dot` is a masked dense product there, E times the work. Here a run is as many blocks of the largest size as
fit, then one of the smallest size that holds the rest. Blocks are read where they lie and may reach into the next run,
whose rows are left as they are.

Axis letters: r rows, e experts, d and h widths.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, Int

from moejax import products
from moejax.products import as_bits, from_bits

# Rows of a block. Larger ones use the processor better; the smallest that holds the rest of a run wastes the least.
_BLOCKS = (16, 32, 64, 128, 256)


def matmul(
    x: Float[Array, "r d"], w: Float[Array, "e d_or_h h_or_d"], sizes: Int[Array, " e"], transposed: bool = False
) -> Float[Array, "r h"]:
    """`grouped_matmul`, without a derivative."""
    return (_product_transposed if transposed else _product)(x, w, jnp.cumsum(sizes) - sizes, sizes)


def outer(x: Float[Array, "r d"], dy: Float[Array, "r h"], sizes: Int[Array, " e"]) -> Float[Array, "e d h"]:
    """`grouped_outer`, without a derivative."""
    return _outer(x, dy, jnp.cumsum(sizes) - sizes, sizes)


def _folded(product: Callable) -> Callable:
    """Let vmap of `product(a, b, starts, sizes)` be one product of more rows and more runs.

    Without it the loops over blocks would go in lock-step, for as many turns as the longest run of the batch needs.
    """
    product = custom_vmap(product)

    @product.def_vmap
    def of_batch(batch, is_batched, a, b, starts, sizes):
        whole = [
            value if mapped else jnp.broadcast_to(value, (batch, *value.shape))
            for value, mapped in zip((a, b, starts, sizes), is_batched, strict=True)
        ]
        whole[2] += whole[0].shape[1] * jnp.arange(batch, dtype=starts.dtype)[:, None]
        out = product(*(value.reshape(-1, *value.shape[2:]) for value in whole))
        return out.reshape(batch, -1, *out.shape[1:]), True

    return product


def _matmul_of_runs(x, w, starts, sizes, transposed):
    limit, h = len(x), w.shape[1] if transposed else w.shape[2]
    dtype, x, w = x.dtype, as_bits(x), as_bits(w)

    def contract(rows, matrix):
        product = (products.matmul_transposed if transposed else products.matmul)(
            from_bits(rows, dtype), from_bits(matrix, dtype)
        )
        return as_bits(product.astype(dtype))

    def expert(e, y):
        run, matrix = Run(starts[e], sizes[e]), lax.dynamic_index_in_dim(w, e, keepdims=False)

        def whole(i, y):
            first, rows = run.start + i * largest, largest
            product = contract(lax.dynamic_slice_in_dim(x, first, rows), matrix)
            return lax.dynamic_update_slice_in_dim(y, product, first, axis=0)

        def rest(rows, i, y):
            # `first` depends on i, or XLA would move the product out of the loop and compute it even for no turn.
            first, mine = _rest(run, largest, rows, limit, i)
            product = contract(lax.dynamic_slice_in_dim(x, first, rows), matrix)
            product = jnp.where(mine, product, lax.dynamic_slice_in_dim(y, first, rows))
            return lax.dynamic_update_slice_in_dim(y, product, first, axis=0)

        y = lax.fori_loop(0, run.size // largest, whole, y)
        chosen = _smallest_that_holds(run.size % largest, blocks)
        for index, rows in enumerate(blocks, start=1):
            # A loop of one turn or none: unlike `lax.switch` it changes y in place.
            y = lax.fori_loop(0, (chosen == index).astype(jnp.int32), partial(rest, rows), y)
        return y

    blocks = _blocks(limit)
    largest = blocks[-1]
    return from_bits(lax.fori_loop(0, len(w), expert, jnp.zeros((limit, h), x.dtype)), dtype)


def _outer_of_runs(x, dy, starts, sizes):
    limit, shape = len(x), (x.shape[1], dy.shape[1])
    dtype, x, dy = x.dtype, as_bits(x), as_bits(dy)

    def product(rows):
        return products.outer(*(from_bits(a, dtype) for a in rows))

    def expert(e, out):
        run = Run(starts[e], sizes[e])

        def whole(i, total):
            first = run.start + i * largest
            return total + product(lax.dynamic_slice_in_dim(a, first, largest) for a in (x, dy))

        def rest(rows):
            first, mine = _rest(run, largest, rows, limit)
            # Both, since a neighbour's NaN times 0 would be NaN.
            return product(jnp.where(mine, lax.dynamic_slice_in_dim(a, first, rows), 0) for a in (x, dy))

        chosen = _smallest_that_holds(run.size % largest, blocks)
        nothing = partial(jnp.zeros, shape, jnp.float32)
        total = lax.switch(chosen, [nothing, *(partial(rest, rows) for rows in blocks)])
        total = lax.fori_loop(0, run.size // largest, whole, total)
        return lax.dynamic_update_index_in_dim(out, as_bits(total.astype(dtype)), e, axis=0)

    blocks = _blocks(limit)
    largest = blocks[-1]
    return from_bits(lax.fori_loop(0, len(sizes), expert, jnp.zeros((len(sizes), *shape), x.dtype)), dtype)


_product = _folded(lambda x, w, starts, sizes: _matmul_of_runs(x, w, starts, sizes, False))
_product_transposed = _folded(lambda x, w, starts, sizes: _matmul_of_runs(x, w, starts, sizes, True))
_outer = _folded(_outer_of_runs)


class Run(NamedTuple):
    """The consecutive rows of one expert."""

    start: Int[Array, ""]
    size: Int[Array, ""]


def _blocks(limit: int) -> list[int]:
    return [rows for rows in _BLOCKS if rows <= limit] or [limit]


def _smallest_that_holds(rows: Int[Array, ""], blocks: list[int]) -> Int[Array, ""]:
    """1 + the index of that block; 0 for no rows."""
    return jnp.searchsorted(jnp.array([0, *blocks]), rows)


def _rest(run: Run, largest: int, rows: int, limit: int, i: Int[Array, ""] | int = 0) -> tuple[Array, Array]:
    """The block of `rows` for what whole blocks have left of a run: its first row, and which of its rows are meant."""
    first = run.start + run.size // largest * largest + i * rows
    inside = jnp.minimum(first, limit - rows)
    row = inside + jnp.arange(rows)[:, None]
    return inside, (row >= first) & (row < run.start + run.size)
