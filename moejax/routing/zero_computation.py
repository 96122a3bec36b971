"""Experts that compute nothing, so that a token decides how much is computed for it.

A router chooses among all experts. The last ones cost nothing:

    zero       adds nothing: the token is done with                      MoE++ (Jin et al. 2024, equation 3)
    copy       adds the token itself                                     MoE++ (equation 4)
    constant   adds a mixture of the token and a learnt vector           MoE++ (equation 5)
    null       adds nothing, and its weight goes to the token's others   AdaMoE (Zeng et al. 2024)

They take any number of tokens and no slots, and dispatch does not know of them. A null expert is balanced together
with all others of its kind: how many of a token's k choices are null is what counts, not which.

Axis letters: g groups, t tokens of a group, e experts, k choices of a token.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.routing.decision import TopKRouting, ZeroComputation


def with_zero_computation(routing: TopKRouting, kinds: ZeroComputation | None) -> TopKRouting:
    """The routing with its last experts of these kinds; None: all experts compute.

    The weights of a token's null experts go to its other experts, in proportion to theirs: what AdaMoE gets by scaling
    those alone to sum to 1. They go nowhere where the others' weights have no positive sum.
    """
    if kinds is None:
        return routing
    routing = routing._replace(zero_computation=kinds)
    if not kinds.null:
        return routing
    others = jnp.where(routing.experts < routing.probs.shape[-1] - kinds.null, routing.weights, 0)
    total = others.sum(-1, keepdims=True)
    grown = routing.weights.sum(-1, keepdims=True) / jnp.where(total > 0, total, 1)
    return routing._replace(weights=others * jnp.where(total > 0, grown, 1))


def computing_part(routing: TopKRouting) -> TopKRouting:
    """What dispatch gets of a routing: the experts that compute, and the choices of these."""
    if routing.zero_computation is None:
        return routing
    computing, chosen = routing.computing, routing.experts < routing.computing
    return TopKRouting(
        routing.logits[..., :computing],
        routing.probs[..., :computing],
        jnp.where(chosen, routing.experts, -1),
        routing.weights,
        None if routing.slots is None else jnp.where(chosen, routing.slots, -1),
        mask=routing.mask,
    )


def meant_shares(computing: int, kinds: ZeroComputation) -> Float[np.ndarray, " e"]:
    """The share of all choices that each expert is meant to get: τ to 1, computing or not."""
    share = kinds.computing_share(computing) / computing
    return np.array([share] * computing + [share / kinds.tau] * kinds.total)


def null_alike(load: Float[Array, " e"], kinds: ZeroComputation) -> Float[Array, " e"]:
    """The load with that of each null expert replaced by the mean of theirs (AdaMoE's balance loss)."""
    if not kinds.null:
        return load
    first = len(load) - kinds.null
    return load.at[first:].set(load[first:].mean())
