"""Sigmoid router with a bias instead of a balance loss (DeepSeek-V3, 2024, section 2.1.2; Wang et al. 2024)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moejax.arguments import number, refuse
from moejax.routing.decision import TopKRouting
from moejax.routing.replay import of_chosen, softmax_of_chosen
from moejax.routing.top_k import best, limit_to_groups


def sigmoid_top_k(
    logits: Float[Array, "g t e"],
    k: int,
    *,
    bias: Float[Array, " e"] | None = None,
    renormalize: bool = True,
    scale: float = 1.0,
    num_expert_groups: int = 1,
    topk_group: int = 1,
    given: Int[Array, "g t k"] | None = None,
) -> TopKRouting:
    """Choose the k experts with the highest sigmoid(logit) + bias, and weigh them by sigmoid(logit) alone.

    `renormalize` scales the k weights to sum to 1, except for k = 1, where a constant 1 would give the router no
    gradient. `scale` multiplies them after that (2.5 in DeepSeek-V3). `probs` are the scores of all experts, scaled to
    sum to 1 (equation 18, for the balance loss). A group of experts scores the sum of its two highest.
    """
    refuse(number("scale", scale, above=0.0))
    scores = jax.nn.sigmoid(logits)
    biased = scores if bias is None else scores + bias[None, None]
    best_of_group = 1 if num_expert_groups == logits.shape[-1] else 2
    experts = best(limit_to_groups(biased, num_expert_groups, topk_group, best_of_group), k, given)
    # s / Σs as a softmax of log s: finite, and with finite gradients, also where all scores vanish.
    log_scores = jax.nn.log_sigmoid(logits)
    weights = softmax_of_chosen(log_scores, experts) if renormalize and k > 1 else of_chosen(scores, experts)
    return TopKRouting(logits, jax.nn.softmax(log_scores, axis=-1), experts, weights * scale)


def update_bias(bias: Float[Array, " e"], load: Float[Array, " e"], rate: float) -> Float[Array, " e"]:
    """The bias after a step: up by `rate` where an expert's load is below the mean, down where above.

    `load` is each expert's share of the step's choices, before capacity (`metrics.load`). DeepSeek-V3: rate 0.001.
    """
    refuse(number("rate", rate, least=0.0))
    return bias + rate * jnp.sign(load.mean() - load)
