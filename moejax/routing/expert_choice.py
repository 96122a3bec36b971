"""Expert choice: each expert takes the tokens that suit it best (Zhou et al. 2022, section 3.2).

The load is perfectly balanced without an auxiliary loss. But a token may be taken by no expert, and its experts depend
on the tokens after it, so this does not suit autoregressive models.

One expert that takes an eighth of the tokens, with a residual connection around it, is Mixture-of-Depths (Raposo et al.
2024, section 3): the other tokens skip it. Its score must then not be a softmax, which of one expert is 1.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from moejax.options import require, up_to
from moejax.routing.decision import ExpertChoiceRouting, check_mask
from moejax.routing.top_k import best

ScoreFunction = Literal["softmax", "sigmoid"]


def expert_choice(
    logits: Float[Array, "g t e"],
    capacity: int,
    mask: Bool[Array, "g t"] | None = None,
    *,
    score_function: ScoreFunction = "softmax",
) -> ExpertChoiceRouting:
    """Each expert takes the `capacity` tokens of its group with the highest score; that is their weight.

    A score is a softmax over experts, or the sigmoid of the expert's own logit. (Mixture-of-Depths weighs by the logit
    itself.) `probs` are a token's scores, scaled to sum to 1 over experts. Ties go to the earlier token. A slot stays
    empty where an expert has more slots than there are real tokens.
    """
    check_mask(mask, logits)
    require("capacity", capacity, up_to(logits.shape[1]))
    require("score_function", score_function, ScoreFunction)
    sigmoid = score_function == "sigmoid"
    probs = jax.nn.softmax(jax.nn.log_sigmoid(logits) if sigmoid else logits, axis=-1)
    scores = (jax.nn.sigmoid(logits) if sigmoid else probs).swapaxes(1, 2)  # g e t
    if mask is not None:
        scores = jnp.where(mask[:, None], scores, -1)
    tokens = best(scores, capacity)
    weights = jnp.take_along_axis(scores, tokens, axis=-1)
    if mask is not None:
        tokens, weights = jnp.where(weights < 0, -1, tokens), jnp.maximum(weights, 0)
    return ExpertChoiceRouting(logits, probs, tokens, weights, mask)
