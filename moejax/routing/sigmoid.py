"""Scores one by one and a bias instead of a balance loss (DeepSeek-V3, 2024, section 2.1.2; Wang et al. 2024)."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moejax.options import Count, NotNegative, Positive, checked
from moejax.routing.decision import TopKRouting
from moejax.routing.replay import of_chosen, softmax_of_chosen
from moejax.routing.rounding import sign_beyond_rounding
from moejax.routing.top_k import best_of_groups
from moejax.widening import wide

ScoreFunction = Literal["sigmoid", "sqrtsoftplus"]


@checked
def sigmoid_top_k(
    logits: Float[Array, "g t e"],
    k: int,
    *,
    bias: Float[Array, " e"] | None = None,
    score_function: ScoreFunction = "sigmoid",
    renormalize: bool = True,
    scale: Positive = 1.0,
    num_expert_groups: Count = 1,
    topk_group: Count = 1,
    given: Int[Array, "g t k"] | None = None,
) -> TopKRouting:
    """Choose the k experts with the highest score + bias, and weigh them by their scores alone.

    A score is sigmoid(logit) in DeepSeek-V3; in DeepSeek-V4 (2026, section 2.1) it is the root of softplus(logit),
    `sqrtsoftplus`, which has no upper end. `renormalize` scales the k weights to sum to 1, except for k = 1, where a
    constant 1 would give the router no gradient. `scale` multiplies them after that (2.5 in DeepSeek-V3). `probs` are
    the scores of all experts, scaled to sum to 1 (equation 18, for the balance loss). A group of experts scores the sum
    of its two highest.
    """
    score, log_score = SCORES[score_function]
    scores = score(logits)
    biased = scores if bias is None else scores + bias[None, None]
    best_of_group = 1 if num_expert_groups == logits.shape[-1] else 2
    experts = best_of_groups(biased, k, given, num_expert_groups, topk_group, best_of_group)
    # s / Σs as a softmax of log s: finite, and with finite gradients, also where all scores vanish.
    log_scores = log_score(logits)
    if renormalize and k > 1:
        weights = softmax_of_chosen(log_scores, experts)
    else:
        weights = of_chosen(jnp.exp(log_scores), experts)
    return TopKRouting(logits, jax.nn.softmax(log_scores, axis=-1), experts, weights * scale)


def sqrt_softplus(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """√ln(1 + eˣ): about exp(x / 2) far below 0, and √x far above."""
    return jnp.sqrt(jax.nn.softplus(x))


def log_sqrt_softplus(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Its logarithm: finite, and with a finite gradient, for every finite x."""
    # Below -40 ln(1 + eˣ) is eˣ to more digits than float64 has. The inner choice keeps the gradient finite there.
    low = x < -40
    return jnp.where(low, x, jnp.log(jax.nn.softplus(jnp.where(low, 0, x)))) / 2


# Each score and its logarithm.
SCORES: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "sigmoid": (jax.nn.sigmoid, jax.nn.log_sigmoid),
    "sqrtsoftplus": (sqrt_softplus, log_sqrt_softplus),
}


@checked
def update_bias(
    bias: Float[Array, " e"], load: Float[Array, " e"], rate: NotNegative, *, center: bool = False
) -> Float[Array, " e"]:
    """The bias after a step: up by `rate` where an expert's load is below the mean, down where above.

    `load` is each expert's share of the step's choices, before capacity (`metrics.load`). DeepSeek-V3: rate 0.001.

    `center` takes from this change its mean over experts, so that the biases do not drift together in long training. It
    changes no choice, since none depends on what is added to all biases alike. False: Wang et al. 2024 (algorithm 1),
    DeepSeek-V3, Megatron-LM. True: Moonlight (Liu et al. 2025, "Muon is Scalable for LLM Training", appendix C),
    torchtitan.
    """
    change = -sign_beyond_rounding(load, load.mean(dtype=wide(load.dtype)))
    return bias + rate * (change - change.mean() if center else change)
