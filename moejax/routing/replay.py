"""Replay: experts are given, and the router weighs them as if it had chosen them itself.

The weights come from its own logits, so they have a gradient. Megatron-LM calls it router replay; with the experts of
the rollout it is R3 (Ma et al. 2025, "Stabilizing MoE Reinforcement Learning by Aligning Training and Inference
Routers"). It also forces a choice: one that is even, skewed, or known to be right.

A token's experts are different numbers from 0 to E - 1, or -1 in place of one that it does without.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moejax.known import known_to_hold
from moejax.routing.decision import TopKRouting


def given_experts(given: Int[Array, "g t _k"], tokens: tuple[int, ...], k: int) -> Int[Array, "g t k"]:
    """The given experts; raises ValueError unless they are k for each of `tokens`, groups and tokens of a group."""
    if given.shape != (*tokens, k):
        raise ValueError(f"given has the shape {given.shape}; k experts for each token make it {(*tokens, k)}.")
    return given


def of_chosen(values: Float[Array, "g t e"], experts: Int[Array, "g t k"]) -> Float[Array, "g t k"]:
    """Each token's values at its experts; 0 in place of an expert, -1."""
    return jnp.where(experts >= 0, jnp.take_along_axis(values, experts, axis=-1), 0)


def softmax_of_chosen(scores: Float[Array, "g t e"], experts: Int[Array, "g t k"]) -> Float[Array, "g t k"]:
    """Softmax over the scores of each token's experts alone; 0 in place of an expert, -1."""
    return jax.nn.softmax(jnp.take_along_axis(scores, experts, axis=-1), axis=-1, where=experts >= 0)


def refuse_impossible(routing: TopKRouting) -> TopKRouting:
    """Raise ValueError for experts that a token cannot have: one beyond the last, or one twice.

    Where their values are not known, as under `jax.jit`, such a token gets NaN weights at the first experts instead,
    hence a NaN output; no other token is touched.
    """
    experts, num_experts = routing.experts, routing.probs.shape[-1]
    one, other = experts[..., :, None], experts[..., None, :]
    twice = (one == other) & (one >= 0) & ~jnp.eye(experts.shape[-1], dtype=bool)[None, None]
    impossible = twice.any((-2, -1)) | (experts >= num_experts).any(-1)
    if known_to_hold(impossible):
        raise ValueError(
            f"given holds the experts {experts[impossible][0].tolist()} for a token; give different ones from 0 to"
            f" {num_experts - 1}, or -1 in place of one."
        )
    experts = jnp.where(impossible[..., None], jnp.arange(experts.shape[-1])[None, None], experts)
    return routing._replace(experts=experts, weights=jnp.where(impossible[..., None], jnp.nan, routing.weights))
