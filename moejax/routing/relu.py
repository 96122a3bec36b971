"""ReLU routing: the experts whose logit is above 0, weighted by it (ReMoE, Wang et al. 2024, section 3).

A token has any number of experts, from none to all, and its output is a continuous function of the logits: an expert
comes and goes at weight 0. That number is k on average because an L1 penalty on the weights is made stronger while it
is above k and weaker while it is below.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from pydantic import Field

from moejax.options import checked
from moejax.routing.decision import TopKRouting
from moejax.routing.replay import of_chosen
from moejax.routing.rounding import sign_beyond_rounding
from moejax.routing.top_k import best

LEAST, MOST = 1e-16, 1e4  # of the coefficient: from either end it is back in some 200 steps


def relu_routing(
    logits: Float[Array, "g t e"],
    sparsity_weight: Float[Array, ""] | float = 0.0,
    *,
    given: Int[Array, "g t e"] | None = None,
) -> TopKRouting:
    """Weigh each expert by relu(logit); choose those of weight above 0, and -1 in place of the others.

    A token without experts gets zeros. `probs` are the weights scaled to sum to 1, and even where all are 0.
    `sparsity_weight`: how much of `losses.sparsity_loss` the router asks for.
    """
    gates = jax.nn.relu(logits)
    total = gates.sum(-1, keepdims=True)
    probs = jnp.where(total == 0, 1 / logits.shape[-1], gates / jnp.where(total == 0, 1, total))
    experts = best(gates, logits.shape[-1], given)
    weights = of_chosen(gates, experts)
    if given is None:
        experts = jnp.where(weights == 0, -1, experts)  # not where it is above 0: a NaN is chosen and propagates
    asked = jnp.broadcast_to(jnp.asarray(sparsity_weight, logits.dtype), logits.shape[:1])
    return TopKRouting(logits, probs, experts, weights, sparsity_weight=asked)


@checked
def update_coefficient(
    coefficient: Float[Array, ""],
    experts_per_token: Float[Array, ""],
    k: int,
    multiplier: Annotated[float, Field(ge=1)],
) -> Float[Array, ""]:
    """The L1 coefficient after a step: times `multiplier` if tokens had more than k experts on average, divided if
    fewer (1.2 in the paper). It stays within 1e-16 and 1e4.
    """
    return jnp.clip(coefficient * multiplier ** sign_beyond_rounding(experts_per_token, k), LEAST, MOST)
