"""Places: the index tables by which rows move, each the inverse of the other.

Experts work on rows. `choices` says whose turn each row is, and `places` which rows answer a token:

    choices[r] = n · k + j    row r holds token n, by its j-th choice; -1: the row is empty
    places[n, j] = r          the row that answers choice j of token n; -1: dropped, or padding

Tokens are counted through all groups, n = group · t + token. For expert choice, k is E: "choice j" is expert j.

Building a table scatters integers, one a choice; no activation is ever scattered.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moejax.routing import ExpertChoiceRouting, SparseRouting, TopKRouting, position_in_expert


class Places(NamedTuple):
    """Which row holds which choice, both ways round, and each choice's weight."""

    choices: Int[Array, " r"]
    places: Int[Array, "n k"]
    weights: Float[Array, "n k"]


def slot_places(routing: SparseRouting, capacity: int) -> Places:
    """Rows are the slots of all experts in order (expert, group, slot)."""
    g, t, num_experts = routing.probs.shape
    rows = num_experts * g * capacity
    if isinstance(routing, ExpertChoiceRouting):
        groups, experts = jnp.arange(g)[:, None, None], jnp.arange(num_experts)[None, :, None]
        choices = jnp.where(routing.tokens < 0, -1, (groups * t + routing.tokens) * num_experts + experts)
        choices = choices.swapaxes(0, 1).reshape(rows)
        places = inverse(choices, g * t * num_experts).reshape(g * t, num_experts)
        return Places(choices, places, routing.gates.reshape(g * t, num_experts))
    groups = jnp.arange(g)[:, None, None]
    places = jnp.where(routing.kept, (routing.experts * g + groups) * capacity + routing.slots, -1)
    places = places.reshape(g * t, -1)
    return Places(inverse(places.reshape(-1), rows), places, routing.weights.reshape(places.shape))


def sorted_places(routing: TopKRouting) -> tuple[Places, Int[Array, " e"]]:
    """Rows are the choices that are carried out, sorted by expert, then empty ones; and the rows of each expert."""
    g, t, k = routing.experts.shape
    experts = jnp.where(routing.kept, routing.experts, -1).reshape(-1)
    sizes = routing.carried_out.sum((0, 1), dtype=jnp.int32)
    starts = jnp.cumsum(sizes) - sizes
    position = position_in_expert(experts[None], len(sizes))[0]
    places = jnp.where(experts < 0, -1, starts[experts] + position)
    choices = inverse(places, places.size)
    return Places(choices, places.reshape(g * t, k), routing.weights.reshape(g * t, k)), sizes


def inverse(table: Int[Array, " m"], size: int) -> Int[Array, " n"]:
    """`out[table[i]] = i`, -1 where nothing points; entries of -1 point nowhere."""
    targets = jnp.where(table < 0, size, table)
    return jnp.full(size, -1, table.dtype).at[targets].set(jnp.arange(table.size, dtype=table.dtype), mode="drop")
