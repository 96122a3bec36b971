"""Dispatch by gather: the same slots as `einsum`, filled by index. Its cost does not grow with the group size."""

from jaxtyping import Array, Float

from moejax.dispatch.einsum import SlotExperts
from moejax.dispatch.places import slot_places
from moejax.dispatch.rows import combine_rows, take_tokens
from moejax.routing import SparseRouting


def gather_dispatch(
    experts: SlotExperts, x: Float[Array, "g t d"], routing: SparseRouting, capacity: int
) -> Float[Array, "g t d2"]:
    """Tokens into slots, experts, slots into tokens, by two index tables.

    For expert choice the way back looks at all E experts of a token, since that many may have taken it: T·E rows.
    """
    g, t, d = x.shape
    where = slot_places(routing, capacity)
    slots = take_tokens(x.reshape(g * t, d), where).reshape(-1, g, capacity, d)
    y = experts(slots)
    return combine_rows(y.reshape(-1, y.shape[-1]), where).reshape(g, t, -1)
