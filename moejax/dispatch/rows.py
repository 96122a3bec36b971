"""Rows by index, in both directions a gather: the derivative of a gather is a scatter-add, slow on GPU and TPU.

`take_tokens` and `combine_rows` know both index tables (`places.Places`), so each derivative reads by the other one.

Axis letters: n tokens, k choices of a token, r rows that experts work on, d model width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moejax.dispatch.places import Places


@jax.custom_vjp
def take_tokens(x: Float[Array, "n d"], where: Places) -> Float[Array, "r d"]:
    """Each row its token; zeros in empty rows."""
    return _rows(x, _tokens(where))


@jax.custom_vjp
def combine_rows(y: Float[Array, "r d"], where: Places) -> Float[Array, "n d"]:
    """Each token the sum of its rows, weighted; zeros if it has none."""
    return _weighted_sum(y, where.places, where.weights.astype(y.dtype))


def _tokens(where: Places) -> Int[Array, " r"]:
    return where.choices // where.places.shape[1]  # -1 stays -1


def _rows(x: Float[Array, "n d"], index: Int[Array, " *r"]) -> Float[Array, "*r d"]:
    return x.at[index].get(mode="fill", fill_value=0, wrap_negative_indices=False)


def _weighted_sum(
    y: Float[Array, "r d"], places: Int[Array, "n k"], weights: Float[Array, "n k"] | None
) -> Float[Array, "n d"]:
    total = jnp.zeros((len(places), y.shape[1]), y.dtype)
    for j in range(places.shape[1]):
        rows = _rows(y, places[:, j])
        total += rows if weights is None else weights[:, j, None] * rows
    return total


def _take_forward(x, where):
    return take_tokens(x, where), where


def _take_backward(where, dy):
    return _weighted_sum(dy, where.places, None), None


def _combine_forward(y, where):
    return combine_rows(y, where), (y, where)


def _combine_backward(residual, dout):
    y, where = residual
    row_weights = _rows(where.weights.reshape(-1, 1), where.choices).astype(y.dtype)
    dy = row_weights * _rows(dout, _tokens(where))
    products = [jnp.sum(_rows(y, index) * dout, axis=-1, dtype=jnp.float32) for index in where.places.T]
    return dy, Places(None, None, jnp.stack(products, axis=-1).astype(where.weights.dtype))


take_tokens.defvjp(_take_forward, _take_backward)
combine_rows.defvjp(_combine_forward, _combine_backward)
