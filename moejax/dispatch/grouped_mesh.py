"""Dropless dispatch over a mesh: each choice's token goes to the device that has its expert, and its output comes back.

How many rows a device sends to another one is not known before it has chosen, but an array's shape is. So there are two
ways, and the devices that share the experts take the same:

    exchanged   if no device has more than ROOM times an even share for any other: an all-to-all of so many rows,
                the rest empty
    gathered    else: an all-gather of all their tokens, local experts, a reduce-scatter of the outputs

Both drop nothing. An exchange brings a device ROOM · k · (its tokens) rows however many devices there are, a gather
(devices) · (its tokens). So a layer of few devices and many choices always gathers.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, Shaped

from moejax.dispatch.grouped import GroupedExperts, grouped_dispatch, sums_of_outputs
from moejax.dispatch.index_tables import IndexTables, inverse
from moejax.dispatch.rows import combine_rows, take_tokens
from moejax.routing import TopKRouting, position_in_expert
from moejax.sharding import EXPERTS, REPLICATED, TOKENS, devices_along, shard_map_axes, shard_map_groups

ROOM = 2  # times an even share: nearly all batches of `text_sparse` on 8 devices fit, of which hardly half do in 1.5


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
        apply_local = partial(apply, experts, key=key)
        if not axes.experts:
            return grouped_dispatch(apply_local, x, routing)
        along = axes.experts, routing.probs.shape[-1] // devices_along(axes.experts)
        chosen = jnp.where(routing.kept, routing.experts, -1)
        gather = partial(_gathered, apply_local, *along)
        room = math.ceil(ROOM * chosen.size / devices_along(axes.experts))
        if room >= x.shape[0] * x.shape[1]:
            return gather(x, chosen, routing.weights)
        row, fits = _rows_sent(chosen, *along, room)
        exchange = partial(_exchanged, apply_local, *along, room, row)
        # What it would keep for its derivative is kept in vain where the other way is taken.
        return lax.cond(fits, exchange, jax.checkpoint(gather), x, chosen, routing.weights)

    spread = shard_map_groups(of_a_device, axes, takes=(EXPERTS, TOKENS, TOKENS, REPLICATED), gives=TOKENS)
    return spread(experts, x, routing, key)


def _gathered(
    experts: GroupedExperts,
    axes: tuple[str, ...],
    num_local: int,
    x: Float[Array, "g t d"],
    chosen: Int[Array, "g t k"],
    weights: Float[Array, "g t k"],
) -> Float[Array, "g t d2"]:
    x, chosen, weights = (lax.all_gather(a, axes, tiled=True) for a in (x, chosen, weights))
    number = chosen - lax.axis_index(axes) * num_local
    local = jnp.where((chosen >= 0) & (number >= 0) & (number < num_local), number, -1)
    y, dtype = sums_of_outputs(experts, x, local, num_local, weights)
    return lax.psum_scatter(y, axes, tiled=True).astype(dtype)


def _rows_sent(
    chosen: Int[Array, "g t k"], axes: tuple[str, ...], num_local: int, room: int
) -> tuple[Int[Array, "n k"], Bool[Array, ""]]:
    """The row of each choice among those sent, `room` for each device; and whether that is enough on all of them."""
    device = jnp.where(chosen < 0, -1, chosen // num_local).reshape(-1, chosen.shape[-1])
    position = position_in_expert(device.reshape(1, -1), devices_along(axes)).reshape(device.shape)
    over = (device >= 0) & (position >= room)
    return jnp.where(device < 0, -1, device * room + position), lax.psum(over.any().astype(jnp.int32), axes) == 0


def _exchanged(
    experts: GroupedExperts,
    axes: tuple[str, ...],
    num_local: int,
    room: int,
    row: Int[Array, "n k"],
    x: Float[Array, "g t d"],
    chosen: Int[Array, "g t k"],
    weights: Float[Array, "g t k"],
) -> Float[Array, "g t d2"]:
    sent = IndexTables(inverse(row.reshape(-1), devices_along(axes) * room), row, weights.reshape(row.shape))
    number = jnp.where(sent.choice_of_row < 0, -1, (chosen % num_local).reshape(-1)[sent.choice_of_row])
    exchange = partial(lax.all_to_all, axis_name=axes, split_axis=0, concat_axis=0, tiled=True)
    rows, number = exchange(take_tokens(x.reshape(-1, x.shape[-1]), sent)), exchange(number)
    # Each row is a token with one choice, which weighs 1 here: the sender weighs what comes back.
    one = jnp.ones((1, len(rows), 1), weights.dtype)
    y, dtype = sums_of_outputs(experts, rows[None], number.reshape(one.shape), num_local, one)
    return combine_rows(exchange(y[0].astype(dtype)), sent).astype(dtype).reshape(*x.shape[:2], -1)
