"""Grouped matrix products on CPUs by XLA's own products: each group of rows cut into blocks.

For bfloat16 where the processor has units for it, for exported programs, which know no library, and for few rows by
matrices that are narrow or not large. A group is as many blocks of the largest size as fit, then one of the smallest
size that holds the rest. Blocks are read where they lie and may reach into the next group, whose rows are left as they
are. A product takes all blocks of a size in one loop, whatever groups they are of; a sum of outer products takes group
by group.

Axis letters: r rows, e experts, d and h widths.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

from moejax.kernels import bfloat16, int8
from moejax.kernels.bfloat16 import as_bits, from_bits
from moejax.kernels.groups import Groups, few
from moejax.widening import wide

# Rows of a block. Larger ones use the processor better; the smallest that holds the rest of a group wastes the least.
# Each size takes a tenth of a second to compile, thrice a product with its derivatives.
_BLOCKS = (16, 32, 64, 128, 256, 512)
_BRANCHES = 64  # each takes 10 ms to compile


def matmul(
    x: Float[Array, "r d"], w: Shaped[Array, "e d_or_h h_or_d"], groups: Groups, transposed: bool
) -> Float[Array, "r h"]:
    """`grouped_matmul`, without a derivative or vmap."""
    limit = len(x)
    if w.dtype == jnp.bfloat16 and few(limit, len(w)) and limit * len(w) <= _BRANCHES:
        return _row_by_row(x, w, groups, transposed)
    multiply, dtype, x = _multiplier(w, transposed), x.dtype, as_bits(x)

    def product(e, first, rows):
        block = from_bits(lax.dynamic_slice_in_dim(x, first, rows), dtype)
        return as_bits(multiply(block, e).astype(dtype))

    blocks = [1] if few(limit, len(w)) else _blocks(limit)
    largest, whole = blocks[-1], groups.sizes // blocks[-1]
    last = jnp.cumsum(whole)
    expert_of_whole = jnp.searchsorted(last, jnp.arange(limit // largest), side="right")
    chosen = _smallest_that_holds(groups.sizes % largest, blocks)
    by_choice = jnp.argsort(chosen)
    bounds = jnp.searchsorted(chosen[by_choice], jnp.arange(len(blocks) + 2))

    def whole_block(i, y):
        e = expert_of_whole[i]
        first = groups.starts[e] + (i - last[e] + whole[e]) * largest
        return lax.dynamic_update_slice_in_dim(y, product(e, first, largest), first, axis=0)

    def rest(rows, i, y):
        e = by_choice[i]
        first, own = _rest(groups.starts[e], groups.sizes[e], largest, rows, limit)
        block = jnp.where(own, product(e, first, rows), lax.dynamic_slice_in_dim(y, first, rows))
        return lax.dynamic_update_slice_in_dim(y, block, first, axis=0)

    h = w.shape[1] if transposed else w.shape[2]
    y = lax.fori_loop(0, last[-1], whole_block, jnp.zeros((limit, h), x.dtype))
    for index, rows in enumerate(blocks, start=1):
        y = lax.fori_loop(bounds[index], bounds[index + 1], partial(rest, rows), y)
    return from_bits(y, dtype)


def _row_by_row(
    x: Float[Array, "r d"], w: Float[Array, "e d_or_h h_or_d"], groups: Groups, transposed: bool
) -> Float[Array, "r h"]:
    """`matmul` without a loop, which would carry a copy of all matrices: each row has a branch for each matrix."""
    product, h = (bfloat16.matmul_transposed, w.shape[1]) if transposed else (bfloat16.matmul, w.shape[2])
    branches = [partial(lambda e, row: product(row, w[e]), e) for e in range(len(w))]
    branches.append(lambda row: jnp.zeros((1, h), jnp.float32))  # in no group
    rows = [lax.switch(e, branches, x[i : i + 1]) for i, e in enumerate(groups.of_rows(len(x)))]
    return jnp.concatenate(rows).astype(x.dtype)


def _multiplier(w: Shaped[Array, "e d_or_h h_or_d"], transposed: bool) -> Callable[..., Float[Array, "n h"]]:
    """Rows, and which matrix, to their product in float32."""
    if w.dtype == jnp.int8 and not transposed:
        return lambda rows, e: int8.matmul(rows, w, e)
    product, bits = bfloat16.matmul_transposed if transposed else bfloat16.matmul, as_bits(w)

    def multiply(rows, e):
        matrix = from_bits(lax.dynamic_index_in_dim(bits, e, keepdims=False), w.dtype)
        return product(rows, matrix.astype(rows.dtype))

    return multiply


def outer(x: Float[Array, "r d"], dy: Float[Array, "r h"], groups: Groups) -> Float[Array, "e d h"]:
    """`grouped_outer`, without a derivative or vmap."""
    limit, shape = len(x), (x.shape[1], dy.shape[1])
    dtype, x, dy = x.dtype, as_bits(x), as_bits(dy)
    blocks = _blocks(limit)
    largest = blocks[-1]

    def product(rows):
        return bfloat16.outer(*(from_bits(a, dtype) for a in rows))

    def expert(e, out):
        start, size = groups.starts[e], groups.sizes[e]

        def whole(i, total):
            return total + product(lax.dynamic_slice_in_dim(a, start + i * largest, largest) for a in (x, dy))

        def rest(rows):
            first, own = _rest(start, size, largest, rows, limit)
            # Both, since a neighbour's NaN times 0 would be NaN.
            return product(jnp.where(own, lax.dynamic_slice_in_dim(a, first, rows), 0) for a in (x, dy))

        chosen = _smallest_that_holds(size % largest, blocks)
        nothing = partial(jnp.zeros, shape, wide(dtype))
        total = lax.switch(chosen, [nothing, *(partial(rest, rows) for rows in blocks)])
        total = lax.fori_loop(0, size // largest, whole, total)
        return lax.dynamic_update_index_in_dim(out, as_bits(total.astype(dtype)), e, axis=0)

    experts = len(groups.sizes)
    return from_bits(lax.fori_loop(0, experts, expert, jnp.zeros((experts, *shape), x.dtype)), dtype)


def _blocks(limit: int) -> list[int]:
    # Not of all rows: XLA would move a product that depends on nothing else out of its loop, and compute it for all.
    return [rows for rows in _BLOCKS if rows < limit] or [limit]


def _smallest_that_holds(rows: Int[Array, "*e"], blocks: list[int]) -> Int[Array, "*e"]:
    """1 + the index of that block; 0 for no rows."""
    return jnp.searchsorted(jnp.array([0, *blocks]), rows)


def _rest(
    start: Int[Array, ""], size: Int[Array, ""], largest: int, rows: int, limit: int
) -> tuple[Int[Array, ""], Bool[Array, "rows 1"]]:
    """The block of `rows` for what whole blocks have left of a group: its first row, and which rows are the group's."""
    first = start + size // largest * largest
    inside = jnp.minimum(first, limit - rows)
    row = inside + jnp.arange(rows)[:, None]
    return inside, (row >= first) & (row < start + size)
