"""Rows by index, in both directions a gather: the derivative of a gather is a scatter-add, slow on GPU and TPU.

`take_tokens` and `combine_rows` know both index tables, so each derivative reads by the other one. What a token gets
from its rows is added up in float32, or wider, whatever the rows are in.

Axis letters: n tokens, k choices of a token, r rows that experts work on, d model width.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moejax.dispatch.index_tables import IndexTables
from moejax.kernels.multilinear import multilinear
from moejax.widening import wide


def take_tokens(x: Float[Array, "n d"], tables: IndexTables) -> Float[Array, "r d"]:
    """Each row its token; zeros in empty rows."""
    return _take(x, tables.choice_of_row, tables.row_of_choice)


def combine_rows(y: Float[Array, "r d"], tables: IndexTables) -> Float[Array, "n d"]:
    """Each token the sum of its rows, weighted, in float32 at least; zeros if it has none."""
    return _combine(y, tables.weights.astype(wide(y.dtype)), tables.choice_of_row, tables.row_of_choice)


@multilinear(lambda ct, x, choice, row: _sum_of_rows(ct, row).astype(ct.dtype))
def _take(x, choice, row):
    return _rows(x, choice // row.shape[1])  # -1 stays -1


@multilinear(
    lambda ct, dtype, weights, choice, row: _weighted_rows(ct.astype(dtype), weights, choice, row),
    lambda ct, y, dtype, choice, row: _products(y, ct, row),
)
def _combine(y, weights, choice, row):
    return _sum_of_rows(y, row, weights.astype(y.dtype))  # as `combine_slots` rounds them


def _sum_of_rows(
    y: Float[Array, "r d"], row: Int[Array, "n k"], weights: Float[Array, "n k"] | None = None
) -> Float[Array, "n d"]:
    total = jnp.zeros((row.shape[0], y.shape[1]), wide(y.dtype))
    for j in range(row.shape[1]):
        rows = _rows(y, row[:, j]).astype(total.dtype)
        total += rows if weights is None else weights[:, j, None].astype(total.dtype) * rows
    return total


def _rows(x: Float[Array, "n d"], index: Int[Array, " *r"]) -> Float[Array, "*r d"]:
    return x.at[index].get(mode="fill", fill_value=0, wrap_negative_indices=False)


def _weighted_rows(
    ct: Float[Array, "n d"], weights: Float[Array, "n k"], choice: Int[Array, " r"], row: Int[Array, "n k"]
) -> Float[Array, "r d"]:
    return _rows(weights.reshape(-1, 1), choice).astype(ct.dtype) * _take(ct, choice, row)


def _products(y: Float[Array, "r d"], ct: Float[Array, "n d"], row: Int[Array, "n k"]) -> Float[Array, "n k"]:
    products = [jnp.sum(_rows(y, index).astype(ct.dtype) * ct, axis=-1) for index in row.T]
    return jnp.stack(products, axis=-1)
