"""Packing: all tokens of a batch, without its padding, in one group.

All of a transformer but the attention treats each token by itself, so there padding only costs time.

Axis letters: b examples, t places of an example, n tokens packed, d width.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from moejax.dispatch.index_tables import IndexTables, inverse
from moejax.dispatch.rows import combine_rows, take_tokens


def packing(mask: Bool[Array, "b t"], rows: int) -> IndexTables:
    """Index tables that move the tokens, in order, to the first of `rows` rows; what does not fit is dropped.

    Packing is a dispatch to a single expert, and moves rows in the same way: a gather in both directions.
    """
    real = fitting(mask, rows).reshape(-1)
    row = jnp.where(real, jnp.cumsum(real) - 1, -1)
    choice = inverse(row, min(rows, mask.size))
    return IndexTables(choice, row[:, None], jnp.ones((mask.size, 1)))


def fitting(mask: Bool[Array, "b t"], rows: int) -> Bool[Array, "b t"]:
    """The real tokens that fit into `rows` rows: if there are more, the longest examples lose their last ones."""
    place_by_place = jnp.cumsum(mask.T.reshape(-1)).reshape(mask.shape[::-1]).T
    return mask & (place_by_place <= rows)


def pack(x: Float[Array, "b t d"], tables: IndexTables | None) -> Float[Array, "g n d"]:
    """The tokens as one group, zeros in empty rows; as they are for None."""
    return x if tables is None else take_tokens(x.reshape(-1, x.shape[-1]), tables)[None]


def unpack(x: Float[Array, "g n d"], tables: IndexTables | None, t: int) -> Float[Array, "b t d"]:
    """The tokens where they came from, `t` places an example, zeros for padding; as they are for None."""
    return x if tables is None else combine_rows(x[0], tables).astype(x.dtype).reshape(-1, t, x.shape[-1])


def pack_ids(ids: Int[Array, "b t"], tables: IndexTables | None) -> Int[Array, "g n"]:
    """Numbers of the tokens as one group, 0 in empty rows; as they are for None."""
    if tables is None:
        return ids
    return ids.reshape(-1).at[tables.choice_of_row].get(mode="fill", fill_value=0, wrap_negative_indices=False)[None]
