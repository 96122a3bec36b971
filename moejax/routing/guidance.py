"""Guided training: each label is assigned to an expert, and the weights are pulled towards it."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy import ndarray

from moejax.options import Count, checked

_CONFIDENCE = 0.9  # weight of the assigned expert in the mask


@checked
def assigned_experts(num_labels: Count, num_experts: Count) -> Int[ndarray, " y"]:
    """The expert of each of y labels: every expert gets y // e consecutive labels, the first y % e one more.

    With fewer labels than experts, the last experts get none.
    """
    each, more = divmod(num_labels, num_experts)
    return np.repeat(np.arange(num_experts), [each + (e < more) for e in range(num_experts)])


def guided_weights(
    probs: Float[Array, "g t e"], assigned: Int[Array, "g t"], share: Float[Array, ""] | float
) -> Float[Array, "g t e"]:
    """share · probs + (1 - share) · mask, where the mask is 0.9 at the assigned expert and even over the others.

    Raises ValueError for fewer than two experts.
    """
    num_experts = probs.shape[-1]
    if num_experts < 2:
        raise ValueError(f"probs are of {num_experts} expert; guided weights lead to one of at least 2.")
    if assigned.shape != probs.shape[:2]:
        raise ValueError(f"assigned has the shape {assigned.shape}; the tokens' is {probs.shape[:2]}.")
    others = (1 - _CONFIDENCE) / (num_experts - 1)
    mask = jnp.where(jax.nn.one_hot(assigned, num_experts, dtype=bool), _CONFIDENCE, others)
    return share * probs + (1 - share) * mask
