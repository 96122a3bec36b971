"""Rows by index, in both directions a gather: the derivative of a gather is a scatter-add, slow on GPU and TPU.

`take_tokens` and `combine_rows` know both index tables (`places.Places`), so each derivative reads by the other one.
What a token gets from its rows is added up in float32, or wider, whatever the rows are in.

Axis letters: n tokens, k choices of a token, r rows that experts work on, d model width.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moejax.dispatch.places import Places
from moejax.multilinear import multilinear


def take_tokens(x: Float[Array, "n d"], where: Places) -> Float[Array, "r d"]:
    """Each row its token; zeros in empty rows."""
    return _take(x, where.choices, where.places)


def combine_rows(y: Float[Array, "r d"], where: Places) -> Float[Array, "n d"]:
    """Each token the sum of its rows, weighted, in float32 at least; zeros if it has none."""
    wide = jnp.promote_types(y.dtype, jnp.float32)
    return _combine(y, where.weights.astype(wide), where.choices, where.places)


@multilinear(lambda ct, x, choices, places: _sum_of_rows(ct, places).astype(ct.dtype))
def _take(x, choices, places):
    return _rows(x, choices // places.shape[1])  # -1 stays -1


@multilinear(
    lambda ct, dtype, weights, choices, places: _weighted_rows(ct.astype(dtype), weights, choices, places),
    lambda ct, y, dtype, choices, places: _products(y, ct, places),
)
def _combine(y, weights, choices, places):
    return _sum_of_rows(y, places, weights.astype(y.dtype))  # as `combine_slots` rounds them


def _sum_of_rows(
    y: Float[Array, "r d"], places: Int[Array, "n k"], weights: Float[Array, "n k"] | None = None
) -> Float[Array, "n d"]:
    wide = jnp.promote_types(y.dtype, jnp.float32)
    total = jnp.zeros((places.shape[0], y.shape[1]), wide)
    for j in range(places.shape[1]):
        rows = _rows(y, places[:, j]).astype(wide)
        total += rows if weights is None else weights[:, j, None].astype(wide) * rows
    return total


def _rows(x: Float[Array, "n d"], index: Int[Array, " *r"]) -> Float[Array, "*r d"]:
    return x.at[index].get(mode="fill", fill_value=0, wrap_negative_indices=False)


def _weighted_rows(
    ct: Float[Array, "n d"], weights: Float[Array, "n k"], choices: Int[Array, " r"], places: Int[Array, "n k"]
) -> Float[Array, "r d"]:
    return _rows(weights.reshape(-1, 1), choices).astype(ct.dtype) * _take(ct, choices, places)


def _products(y: Float[Array, "r d"], ct: Float[Array, "n d"], places: Int[Array, "n k"]) -> Float[Array, "n k"]:
    products = [jnp.sum(_rows(y, index).astype(ct.dtype) * ct, axis=-1) for index in places.T]
    return jnp.stack(products, axis=-1)
