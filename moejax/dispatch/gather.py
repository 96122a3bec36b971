"""Dispatch by gather: the same slots as `einsum`, filled by index. Its cost does not grow with the group size."""

from jaxtyping import Array, Float

from moejax.dispatch.einsum import SlotExperts
from moejax.dispatch.places import slot_places
from moejax.dispatch.rows import combine_rows, take_tokens
from moejax.routing import SparseRouting
from moejax.sharding import SLOTS_BY_TOKEN, TOKENS, shard_map_groups


def gather_dispatch(
    experts: SlotExperts, x: Float[Array, "g t d"], routing: SparseRouting, capacity: int
) -> Float[Array, "g t d2"]:
    """Tokens into slots, experts, slots into tokens, by two index tables.

    For expert choice the way back looks at all E experts of a token, since that many may have taken it: T·E rows.
    """
    g, t, d = x.shape

    def fill(x, routing):
        where = slot_places(routing, capacity)
        return take_tokens(x.reshape(-1, d), where).reshape(-1, x.shape[0], capacity, d), where

    def empty(y, where):
        return combine_rows(y.reshape(-1, y.shape[-1]), where).astype(y.dtype)

    slots, where = shard_map_groups(fill, g, takes=TOKENS, gives=(SLOTS_BY_TOKEN, TOKENS))(x, routing)
    y = experts(slots)
    return shard_map_groups(empty, g, takes=(SLOTS_BY_TOKEN, TOKENS), gives=TOKENS)(y, where).reshape(g, t, y.shape[-1])
