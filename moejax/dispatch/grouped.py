"""Dropless dispatch: tokens sorted by expert, any number for each (MegaBlocks, Gale et al. 2022).

No slots, no capacity, no padding: the experts see the T·k chosen tokens and nothing else, in one array of static shape.
They must be made of matrix products, which `grouped_matmul` computes group by group.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int

from moejax.dispatch.index_tables import sorted_tables
from moejax.dispatch.rows import combine_rows, take_tokens
from moejax.kernels.groups import Groups
from moejax.routing import TopKRouting

GroupedExperts = Callable[[Float[Array, "n d"], Groups], Float[Array, "n d2"]]


def grouped_dispatch(experts: GroupedExperts, x: Float[Array, "g t d"], routing: TopKRouting) -> Float[Array, "g t d2"]:
    """Sort tokens by expert, apply the experts to (rows, groups), return their outputs to their tokens.

    Choices that a routing marks as dropped are left out, so that with slots assigned this equals the other two ways.
    """
    if not isinstance(routing, TopKRouting):
        raise TypeError(
            f"grouped_dispatch is of a TopKRouting, not of a {type(routing).__name__}; use gather_dispatch."
        )
    chosen = jnp.where(routing.kept, routing.experts, -1)
    y, dtype = sums_of_outputs(experts, x, chosen, routing.probs.shape[-1], routing.weights)
    return y.astype(dtype)


def sums_of_outputs(
    experts: GroupedExperts,
    x: Float[Array, "g t d"],
    chosen: Int[Array, "g t k"],
    num_experts: int,
    weights: Float[Array, "g t k"],
) -> tuple[Float[Array, "g t d2"], DTypeLike]:
    """What `grouped_dispatch` rounds in the end, and to which type; a choice of -1 is left out."""
    g, t, k = chosen.shape
    tables, groups = sorted_tables(chosen.reshape(g * t, k), num_experts, weights.reshape(g * t, k))
    y = experts(take_tokens(x.reshape(g * t, -1), tables), groups)
    return combine_rows(y, tables).reshape(g, t, y.shape[-1]), y.dtype
