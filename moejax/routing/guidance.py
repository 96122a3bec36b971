"""Guided assignment: which expert a label is meant for, and weights that lead the experts there while they learn."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy import ndarray

from moejax.arguments import refuse, whole

_CONFIDENCE = 0.9  # of the mask, in the label's expert


def assigned_experts(num_labels: int, num_experts: int) -> Int[ndarray, " y"]:
    """The expert meant for each label: runs of y // e labels, one more for each of the first y % e experts.

    With fewer labels than experts, the last experts are meant for none.
    """
    refuse(whole("num_labels", num_labels) + whole("num_experts", num_experts))
    each, more = divmod(num_labels, num_experts)
    return np.repeat(np.arange(num_experts), [each + (e < more) for e in range(num_experts)])


def guided_weights(
    probs: Float[Array, "g t e"], assigned: Int[Array, "g t"], share: Float[Array, ""] | float
) -> Float[Array, "g t e"]:
    """share · probs + (1 - share) · mask, the mask 0.9 on the token's assigned expert and even on the others.

    Needs at least two experts.
    """
    num_experts = probs.shape[-1]
    if num_experts < 2:
        raise ValueError(f"probs are of {num_experts} expert; guided weights lead to one of at least 2.")
    if assigned.shape != probs.shape[:2]:
        raise ValueError(f"assigned has the shape {assigned.shape}; the tokens' is {probs.shape[:2]}.")
    others = (1 - _CONFIDENCE) / (num_experts - 1)
    mask = jnp.where(jax.nn.one_hot(assigned, num_experts, dtype=bool), _CONFIDENCE, others)
    return share * probs + (1 - share) * mask
