"""The index tables by which rows move, each the inverse of the other. Experts work on rows.

    choice_of_row[r] = n · k + j    row r holds token n, for its choice j; -1: the row is empty
    row_of_choice[n, j] = r         the row of token n's choice j; -1: dropped, or padding

Tokens are counted through all groups, n = group · t + token. For expert choice, k is E: "choice j" is expert j.

Building a table scatters integers, one a choice; no activation is ever scattered.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moejax.kernels.groups import Groups
from moejax.routing import ExpertChoiceRouting, SparseRouting, position_in_expert
from moejax.routing.capacity import check_slots


class IndexTables(NamedTuple):
    """Row → (token, choice), (token, choice) → row, and each choice's weight."""

    choice_of_row: Int[Array, " r"]
    row_of_choice: Int[Array, "n k"]
    weights: Float[Array, "n k"]


def slot_tables(routing: SparseRouting, capacity: int) -> IndexTables:
    """Rows are the slots of all experts in order (expert, group, slot); a choice with a slot beyond them is dropped."""
    check_slots(routing, capacity)
    g, t, num_experts = routing.probs.shape
    rows = num_experts * g * capacity
    if isinstance(routing, ExpertChoiceRouting):
        groups, experts = jnp.arange(g)[:, None, None], jnp.arange(num_experts)[None, :, None]
        choice = jnp.where(routing.tokens < 0, -1, (groups * t + routing.tokens) * num_experts + experts)
        choice = choice.swapaxes(0, 1).reshape(rows)
        row = inverse(choice, g * t * num_experts).reshape(g * t, num_experts)
        return IndexTables(choice, row, routing.gates.reshape(g * t, num_experts))
    groups = jnp.arange(g)[:, None, None]
    fits = routing.kept & (routing.slots < capacity)
    row = jnp.where(fits, (routing.experts * g + groups) * capacity + routing.slots, -1)
    row = row.reshape(g * t, -1)
    return IndexTables(inverse(row.reshape(-1), rows), row, routing.weights.reshape(row.shape))


def sorted_tables(
    experts: Int[Array, "n k"], num_experts: int, weights: Float[Array, "n k"]
) -> tuple[IndexTables, Groups]:
    """Rows are the choices, those of -1 left out, sorted by expert, then empty ones; an expert's rows are its group."""
    chosen = experts.reshape(-1)
    groups = Groups.of(jax.nn.one_hot(chosen, num_experts, dtype=jnp.int32).sum(0, dtype=jnp.int32))
    position = position_in_expert(chosen[None], num_experts)[0]
    row = jnp.where(chosen < 0, -1, groups.starts[chosen] + position)
    return IndexTables(inverse(row, row.size), row.reshape(experts.shape), weights), groups


def inverse(table: Int[Array, " m"], size: int) -> Int[Array, " n"]:
    """`out[table[i]] = i`, -1 where nothing points; entries of -1 point nowhere."""
    targets = jnp.where(table < 0, size, table)
    return jnp.full(size, -1, table.dtype).at[targets].set(jnp.arange(table.size, dtype=table.dtype), mode="drop")
