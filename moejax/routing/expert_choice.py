"""Expert choice: each expert takes the tokens that suit it best (Zhou et al. 2022, section 3.2).

The load is perfectly balanced without an auxiliary loss. But a token may be taken by no expert, and its experts depend
on the tokens after it, so this does not suit autoregressive models.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from moejax.arguments import refuse, whole
from moejax.routing.decision import ExpertChoiceRouting, check_mask
from moejax.routing.top_k import best


def expert_choice(
    logits: Float[Array, "g t e"], capacity: int, mask: Bool[Array, "g t"] | None = None
) -> ExpertChoiceRouting:
    """Each expert takes the `capacity` tokens of its group with the highest probability; that is their weight.

    Ties go to the earlier token. A slot stays empty where an expert has more slots than there are real tokens.
    """
    check_mask(mask, logits)
    refuse(whole("capacity", capacity, 1, logits.shape[1]))
    probs = jax.nn.softmax(logits, axis=-1)
    scores = probs.swapaxes(1, 2)  # g e t
    if mask is not None:
        scores = jnp.where(mask[:, None], scores, -1)
    tokens = best(scores, capacity)
    weights = jnp.take_along_axis(scores, tokens, axis=-1)
    if mask is not None:
        tokens, weights = jnp.where(weights < 0, -1, tokens), jnp.maximum(weights, 0)
    return ExpertChoiceRouting(logits, probs, tokens, weights, mask)
