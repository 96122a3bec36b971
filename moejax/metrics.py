"""Metrics of routing: what a router did, as a few small arrays. Pure functions, cheap enough to keep on."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.routing import Routing, TopKRouting


def load(routing: Routing) -> Float[Array, " e"]:
    """Share of each expert in the layer's work; sums to 1.

    Sparse: of all choices, dropped ones included, the share that fell on the expert. Dense and soft experts all
    compute the same amount, so there it is the expert's mean share in the output.
    """
    shares = routing.choices if isinstance(routing, TopKRouting) else routing.gates
    total = shares.sum((0, 1))
    return total / total.sum()


def dropped(routing: Routing) -> Float[Array, ""]:
    """Share of all choices that found no free slot; 0 for dense and soft, which drop nothing."""
    if isinstance(routing, TopKRouting) and routing.slots is not None:
        return jnp.mean(routing.slots < 0, dtype=jnp.float32)
    return jnp.zeros(())


def gate_entropy(routing: Routing) -> Float[Array, ""]:
    """Mean over tokens of the entropy of the router's distribution over experts, in nats: 0 decided, ln E undecided."""
    probs = routing.probs if isinstance(routing, TopKRouting) else routing.gates
    return jnp.mean(jax.scipy.special.entr(probs).sum(-1))
