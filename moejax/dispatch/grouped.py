"""Dropless dispatch: tokens sorted by expert, any number for each (MegaBlocks, Gale et al. 2022).

No slots, no capacity, no padding: the experts see the T·k chosen tokens and nothing else, in one array of static shape.
They must be made of matrix products, which `grouped_matmul` computes group by group.

Over a mesh: an all-gather of tokens along experts' axes, local experts, a reduce-scatter of their outputs. So nothing
is dropped however uneven the choice is, and what a device receives and sorts is bounded: the tokens of the devices that
share the experts with it, and k rows for each.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Int, Key, PyTree, Shaped

from moejax.dispatch.index_tables import sorted_tables
from moejax.dispatch.rows import combine_rows, take_tokens
from moejax.kernels.groups import Groups
from moejax.routing import TopKRouting
from moejax.sharding import EXPERTS, REPLICATED, TOKENS, shard_map_axes, shard_map_groups

GroupedExperts = Callable[[Float[Array, "n d"], Groups], Float[Array, "n d2"]]


def grouped_dispatch(experts: GroupedExperts, x: Float[Array, "g t d"], routing: TopKRouting) -> Float[Array, "g t d2"]:
    """Sort tokens by expert, apply the experts to (rows, groups), return their outputs to their tokens.

    Choices that a routing marks as dropped are left out, so that with slots assigned this equals the other two ways.
    """
    y, dtype = _sums(experts, x, routing)
    return y.astype(dtype)


def _sums(experts: GroupedExperts, x: Float[Array, "g t d"], routing: TopKRouting) -> tuple[Array, DTypeLike]:
    """What `grouped_dispatch` rounds in the end, and to which type."""
    g, t, d = x.shape
    tables, groups = sorted_tables(routing)
    y = experts(take_tokens(x.reshape(g * t, d), tables), groups)
    return combine_rows(y, tables).reshape(g, t, y.shape[-1]), y.dtype


def grouped_over_mesh(
    apply: Callable[..., Float[Array, "n d2"]],
    experts: PyTree[Shaped[Array, "e ..."]],
    x: Float[Array, "g t d"],
    routing: TopKRouting,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "g t d2"]:
    """Tokens sorted by expert, any number for each: no slots and no drops (MegaBlocks).

    It is `grouped_dispatch` of `apply(experts, rows, groups, key)`, the stacked experts sharded over the mesh in use.

    `key`: for experts that draw; each device draws for its own rows.
    """
    axes = shard_map_axes(x.shape[0], routing.probs.shape[-1])

    def of_a_device(experts, x, routing, key):
        if key is not None and axes.tokens:
            key = jax.random.fold_in(key, lax.axis_index(axes.tokens))
        if not axes.experts:
            return grouped_dispatch(partial(apply, experts, key=key), x, routing)
        x, routing = jax.tree.map(lambda a: lax.all_gather(a, axes.experts, tiled=True), (x, routing))
        local = _local(routing, lax.axis_index(axes.experts), len(jax.tree.leaves(experts)[0]))
        y, dtype = _sums(partial(apply, experts, key=key), x, local)
        return lax.psum_scatter(y, axes.experts, tiled=True).astype(dtype)

    spread = shard_map_groups(of_a_device, axes, takes=(EXPERTS, TOKENS, TOKENS, REPLICATED), gives=TOKENS)
    return spread(experts, x, routing, key)


def _local(routing: TopKRouting, device: Int[Array, ""], experts: int) -> TopKRouting:
    """The choices of a device's local experts, so many, numbered from 0; the others count as dropped."""
    number = routing.experts - device * experts
    local = routing.kept & (number >= 0) & (number < experts)
    return routing._replace(experts=jnp.where(local, number, -1), probs=routing.probs[..., :experts], slots=None)
