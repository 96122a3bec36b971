"""Guided training: each label is assigned to an expert, and the weights are pulled towards it."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy import ndarray

from moejax.known import known_to_hold
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
    probs: Float[Array, "g t e"],
    assigned: Int[Array, "g t"],
    share: Float[Array, ""] | float,
    mask: Bool[Array, "g t"] | None = None,
) -> Float[Array, "g t e"]:
    """share · probs + (1 - share) · target, where the target is 0.9 at the assigned expert and even over the others.

    Raises ValueError for fewer than two experts, and as `one_hot_of_assigned` does.
    """
    num_experts = probs.shape[-1]
    if num_experts < 2:
        raise ValueError(f"probs are of {num_experts} expert; guided weights lead to one of at least 2.")
    others = (1 - _CONFIDENCE) / (num_experts - 1)
    hot = one_hot_of_assigned(assigned, probs, mask)
    target = jnp.where(hot == 1, _CONFIDENCE, jnp.where(hot == 0, others, hot))  # NaN propagates
    return share * probs + (1 - share) * target


def one_hot_of_assigned(
    assigned: Int[Array | ndarray, "*tokens"], probs: Float[Array, "g t e"], mask: Bool[Array, "g t"] | None = None
) -> Float[Array, "g t e"]:
    """1 at each token's assigned expert, 0 at the others; whatever is assigned to padding counts nowhere.

    Raises ValueError for another shape than the tokens', and for an expert that is not there. Where the values are not
    known, as under `jax.jit`, such a token gets NaN instead.
    """
    if jnp.shape(assigned) != probs.shape[:2]:
        raise ValueError(
            f"assigned has the shape {jnp.shape(assigned)}; an expert for each token makes it {probs.shape[:2]}."
        )
    assigned, num_experts = jnp.asarray(assigned), probs.shape[-1]
    impossible = (assigned < 0) | (assigned >= num_experts)
    if mask is not None:
        impossible &= mask
    if known_to_hold(impossible):
        raise ValueError(
            f"assigned holds the expert {assigned[impossible][0]}; give each token one from 0 to {num_experts - 1}."
        )
    return jnp.where(impossible[..., None], jnp.nan, jax.nn.one_hot(assigned, num_experts, dtype=probs.dtype))
