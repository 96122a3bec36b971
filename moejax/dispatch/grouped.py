"""Dropless dispatch: tokens sorted by expert, any number for each (MegaBlocks, Gale et al. 2022).

No slots, no capacity, no padding: the experts see the T·k chosen tokens and nothing else, in one array of static shape.
They must be made of matrix products, which `grouped_matmul` computes group by group.
"""

from collections.abc import Callable

from jaxtyping import Array, Float, Int

from moejax.dispatch.places import sorted_places
from moejax.dispatch.rows import combine_rows, take_tokens
from moejax.routing import TopKRouting

GroupedExperts = Callable[[Float[Array, "n d"], Int[Array, " e"]], Float[Array, "n d2"]]


def grouped_dispatch(experts: GroupedExperts, x: Float[Array, "g t d"], routing: TopKRouting) -> Float[Array, "g t d2"]:
    """Sort tokens by expert, apply the experts to (rows, rows an expert), return the answers to their tokens.

    Choices that a routing marks as dropped are left out, so that with slots assigned this equals the other two ways.
    """
    g, t, d = x.shape
    where, sizes = sorted_places(routing)
    y = experts(take_tokens(x.reshape(g * t, d), where), sizes)
    return combine_rows(y, where).reshape(g, t, -1)
