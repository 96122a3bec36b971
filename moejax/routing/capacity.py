"""Capacity: how many slots an expert has, and which choices get one."""

import math
from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field

from moejax.options import Count, Positive, checked
from moejax.routing.decision import ExpertChoiceRouting, SparseRouting, TopKRouting
from moejax.routing.position import position_in_expert


@checked
def expert_capacity(
    tokens: Annotated[int, Field(ge=0)], num_experts: Count, k: Count, capacity_factor: Positive
) -> int:
    """Slots per expert in a group: ceil(factor · k · tokens / num_experts), at least 1 and at most `tokens`.

    A factor of 1 fits a perfectly balanced choice exactly. An expert gets a token at most once, so it needs no more
    slots than there are tokens.
    """
    slots = round(capacity_factor * k * tokens / num_experts, 6)  # 1.1 · 100 / 2 is 55, not 55.000000000000007
    return min(tokens, max(1, math.ceil(slots)))


def check_slots(routing: SparseRouting, capacity: int) -> None:
    """Raise ValueError unless choices have slots, and where experts choose as many as `capacity`."""
    if isinstance(routing, ExpertChoiceRouting):
        if (slots := routing.tokens.shape[-1]) != capacity:
            raise ValueError(f"capacity is {capacity}, but each expert chose {slots} tokens; give that.")
    elif routing.slots is None:
        raise ValueError("the routing has no slots; give its choices some, as moejax.routing.assign does.")


@checked
def assign(
    routing: TopKRouting, capacity: Annotated[int, Field(ge=1)], priority: Float[Array, "g t"] | None = None
) -> TopKRouting:
    """Give each choice the next free slot of its expert; -1 when all `capacity` slots are taken.

    All first choices come first, in token order, then all second choices, and so on (GShard). With a `priority`,
    tokens come in descending order of it, ties by position: batch-prioritised routing, where it is the token's highest
    weight (V-MoE, Riquelme et al. 2021, section 4.1). The weights stay as they are: a dropped choice adds nothing to
    its token's output. An expert that computes nothing has no slots to run out of: no choice of it is dropped.
    """
    g, t, k = routing.experts.shape
    if priority is not None and priority.shape != (g, t):
        raise ValueError(f"priority has the shape {priority.shape}; the tokens' is {(g, t)}.")
    experts = routing.experts
    if priority is not None:
        order = jnp.argsort(-priority, axis=-1, stable=True)[..., None]
        experts = jnp.take_along_axis(experts, order, axis=1)
    queue = experts.swapaxes(1, 2).reshape(g, k * t)
    slots = position_in_expert(queue, routing.probs.shape[-1]).reshape(g, k, t).swapaxes(1, 2)
    fits = slots < capacity
    if routing.zero_computation:
        fits |= experts >= routing.computing
    slots = jnp.where(fits & (experts >= 0), slots, -1)
    if priority is not None:
        slots = jnp.take_along_axis(slots, jnp.argsort(order, axis=1), axis=1)
    return routing._replace(slots=slots)
