"""Token choice: each token's k best experts by a softmax router.

Ties go to the lower expert index. A logit of -inf bars an expert from a token, as long as k others remain. A token with
a NaN or +inf among its logits gets NaN weights, hence a NaN output; no other token is touched.

`given`, here and in the other routers' functions, are experts to weigh in place of a choice: see `replay`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moejax.options import Count, Positive, checked, require, up_to
from moejax.routing.decision import TopKRouting
from moejax.routing.replay import given_experts, of_chosen, softmax_of_chosen
from moejax.sharding import TOKENS, shard_map_axes, shard_map_groups


@checked
def softmax_top_k(
    logits: Float[Array, "g t e"],
    k: int,
    *,
    renormalize: bool = True,
    scale: Positive = 1.0,
    num_expert_groups: Count = 1,
    topk_group: Count = 1,
    given: Int[Array, "g t k"] | None = None,
) -> TopKRouting:
    """Softmax, then the choice: GShard (Lepikhin et al. 2020, algorithm 1), Mixtral, OLMoE, Qwen-MoE.

    `renormalize` scales the k probabilities to sum to 1 (Mixtral always, OLMoE with `norm_topk_prob`), except for
    k = 1: a constant weight of 1 would give the router no gradient (Switch, Fedus et al. 2021, section 2.1). `scale`
    multiplies the weights after that (16 in DeepSeek-V2).
    """
    probs = jax.nn.softmax(logits, axis=-1)
    # By logits: probabilities that vanish are all alike.
    experts = best_of_groups(logits, k, given, num_expert_groups, topk_group)
    weights = _renormalized(logits, probs, experts) if renormalize and k > 1 else of_chosen(probs, experts)
    return TopKRouting(logits, probs, experts, weights * scale)


def top_k_softmax(logits: Float[Array, "g t e"], k: int, *, given: Int[Array, "g t k"] | None = None) -> TopKRouting:
    """The choice, then a softmax of the k logits alone: GraniteMoe; Shazeer et al. 2017, equations 3 and 5.

    In exact arithmetic it equals the renormalised `softmax_top_k`. For k = 1 the weight is 1, so the router gets no
    gradient from the output.
    """
    experts, probs = best(logits, k, given), jax.nn.softmax(logits, axis=-1)
    return TopKRouting(logits, probs, experts, _renormalized(logits, probs, experts))


def switch(logits: Float[Array, "g t e"], *, given: Int[Array, "g t 1"] | None = None) -> TopKRouting:
    """The one most probable expert, weighted by its probability (Switch, Fedus et al. 2021, equation 2)."""
    return softmax_top_k(logits, 1, given=given)


def _renormalized(
    logits: Float[Array, "g t e"], probs: Float[Array, "g t e"], experts: Int[Array, "g t k"]
) -> Float[Array, "g t k"]:
    """The chosen probabilities over their sum, by a softmax of the chosen logits: also where all of them vanish."""
    # NaN propagates from experts that were not chosen, too.
    return jnp.where(jnp.isnan(probs[..., :1]), jnp.nan, softmax_of_chosen(logits, experts))


def best(scores: Float[Array, "g t e"], k: int, given: Int[Array, "g t _k"] | None = None) -> Int[Array, "g t k"]:
    """Indices of the k highest scores, best first, or the `given` ones. The choice itself has no gradient."""
    require("k", k, up_to(scores.shape[-1]))
    return _highest(scores, k)[1] if given is None else given_experts(given, scores.shape[:-1], k)


def best_of_groups(
    scores: Float[Array, "g t e"],
    k: int,
    given: Int[Array, "g t _k"] | None,
    num_expert_groups: int,
    topk_group: int,
    best_of_group: int = 1,
) -> Int[Array, "g t k"]:
    """`best` of the experts that `limit_to_groups` leaves; ValueError if these are fewer than k."""
    left = limit_to_groups(scores, num_expert_groups, topk_group, best_of_group)
    require("k", k, up_to(topk_group * (scores.shape[-1] // num_expert_groups)))
    return best(left, k, given)


def _highest(scores: Float[Array, "g *t e"], k: int) -> tuple[Float[Array, "g *t k"], Int[Array, "g *t k"]]:
    """The k highest scores and their indices, both without a gradient."""
    # XLA would bring all scores together for its `top_k`.
    axes = shard_map_axes(scores.shape[0])
    choose = shard_map_groups(lambda scores: jax.lax.top_k(scores, k), axes, takes=TOKENS, gives=TOKENS)
    values, indices = choose(jax.lax.stop_gradient(scores))
    return values, indices


@checked
def limit_to_groups(
    scores: Float[Array, "g t e"], num_expert_groups: Count, topk_group: Count, best_of_group: int = 1
) -> Float[Array, "g t e"]:
    """Set the scores of all experts to -inf, except in each token's `topk_group` best groups of experts.

    The experts are split in order into `num_expert_groups` groups of equal size, for instance one for each machine, so
    that a token is sent to few machines. A group scores the sum of its `best_of_group` highest: 1 in DeepSeek-V2 (2024,
    section 2.1.2), 2 in DeepSeek-V3 (2024, section 2.1.2).
    """
    require("topk_group", topk_group, up_to(num_expert_groups))
    if scores.shape[-1] % num_expert_groups:
        raise ValueError(
            f"num_expert_groups is {num_expert_groups}, which does not divide the {scores.shape[-1]} experts."
        )
    require("best_of_group", best_of_group, up_to(scores.shape[-1] // num_expert_groups))
    if num_expert_groups == topk_group:
        return scores
    members = scores.reshape(*scores.shape[:-1], num_expert_groups, -1)
    group_scores = _highest(members, best_of_group)[0].sum(-1)
    chosen = jax.nn.one_hot(best(group_scores, topk_group), num_expert_groups, dtype=bool).any(-2)
    return jnp.where(chosen[..., None], members, -jnp.inf).reshape(scores.shape)
