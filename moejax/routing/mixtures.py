"""Routers without a choice: every expert gets every token, or every slot a mixture of tokens."""

from numbers import Real

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from moejax.known import known_to_hold
from moejax.options import Positive, checked, require
from moejax.routing.decision import DenseRouting, SoftRouting, check_mask

_ROUNDING = 1e-3  # of a share that is the sum of as many steps as training has


def dense_routing(
    logits: Float[Array, "g t e"],
    temperature: Float[Array, ""] | float = 1.0,
    mask: Bool[Array, "g t"] | None = None,
) -> DenseRouting:
    """Weigh all experts by softmax(logits / temperature): one expert as it nears 0, all evenly as it grows."""
    check_mask(mask, logits)
    if isinstance(temperature, Real):
        require("temperature", temperature, Positive)
    return DenseRouting(logits, jax.nn.softmax(logits / temperature, axis=-1), mask)


@checked
def anneal(start: Positive, end: Positive, progress: Float[Array, ""] | float) -> Float[Array, ""] | float:
    """Temperature at `progress` (0 to 1) of the training, geometric from `start` to `end`.

    Raises ValueError for progress beyond by more than rounding, such as the number of a step; where its value is not
    known, as under `jax.jit`, the temperature is NaN then.
    """
    beyond = jnp.logical_or(progress < -_ROUNDING, progress > 1 + _ROUNDING)
    if known_to_hold(beyond):
        raise ValueError(f"progress is {progress}; give the share of the training that is done, from 0 to 1.")
    return jnp.where(beyond, jnp.nan, start * (end / start) ** jnp.clip(progress, 0, 1))


def soft_routing(logits: Float[Array, "g t e c"], mask: Bool[Array, "g t"] | None = None) -> SoftRouting:
    """Two softmaxes of one array: over the tokens for dispatch, over all slots of all experts for combine."""
    check_mask(mask, logits)
    if mask is None:
        return SoftRouting(logits, jax.nn.softmax(logits, axis=1), _over_all_slots(logits))
    real = mask[:, :, None, None]
    # The lowest finite number, not -inf: a group of nothing but padding keeps finite gradients and empty slots.
    dispatch = jax.nn.softmax(jnp.where(real, logits, jnp.finfo(logits.dtype).min), axis=1)
    return SoftRouting(logits, jnp.where(real, dispatch, 0), jnp.where(real, _over_all_slots(logits), 0), mask)


def _over_all_slots(logits: Float[Array, "g t e c"]) -> Float[Array, "g t e c"]:
    g, t, e, c = logits.shape
    return jax.nn.softmax(logits.reshape(g, t, e * c)).reshape(logits.shape)  # ONNX has it along one axis
