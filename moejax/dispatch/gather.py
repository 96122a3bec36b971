"""Dispatch by gather: the same slots as `einsum`, filled by index. Its cost does not grow with the group size."""

from jaxtyping import Array, Float

from moejax.dispatch.einsum import SlotExperts
from moejax.dispatch.index_tables import slot_tables
from moejax.dispatch.rows import combine_rows, take_tokens
from moejax.routing import SparseRouting
from moejax.sharding import SLOTS_BY_TOKEN, TOKENS, shard_map_axes, shard_map_groups


def gather_dispatch(
    experts: SlotExperts, x: Float[Array, "g t d"], routing: SparseRouting, capacity: int
) -> Float[Array, "g t d2"]:
    """Tokens into slots, experts, slots into tokens, by two index tables.

    For expert choice the combine gathers T·E rows, since all E experts may have taken a token.
    """
    g, t, d = x.shape
    axes = shard_map_axes(g)

    def fill(x, routing):
        tables = slot_tables(routing, capacity)
        return take_tokens(x.reshape(-1, d), tables).reshape(-1, x.shape[0], capacity, d), tables

    def empty(y, tables):
        return combine_rows(y.reshape(-1, y.shape[-1]), tables).astype(y.dtype)

    slots, tables = shard_map_groups(fill, axes, takes=TOKENS, gives=(SLOTS_BY_TOKEN, TOKENS))(x, routing)
    y = experts(slots)
    y = shard_map_groups(empty, axes, takes=(SLOTS_BY_TOKEN, TOKENS), gives=TOKENS)(y, tables)
    return y.reshape(g, t, y.shape[-1])
