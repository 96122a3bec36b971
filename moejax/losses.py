"""Auxiliary losses: what keeps a sparse router balanced and its logits small. Pure functions of the routing."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.routing import TopKRouting


def load_balance_loss(routing: TopKRouting) -> Float[Array, ""]:
    """E · Σ_e f_e · P_e: f_e the share of all choices that fell on expert e, P_e its mean probability.

    Equals Switch (Fedus et al. 2021, equation 4) for k = 1, and for k > 1 counts all k choices, divided by k, so that
    a uniform routing gives exactly 1 whatever k is. Choices are counted before capacity; the gradient flows through
    P_e alone. Computed over all groups together.
    """
    num_experts, k = routing.probs.shape[-1], routing.experts.shape[-1]
    f = routing.choices.mean((0, 1)) / k
    p = routing.probs.mean((0, 1))
    return num_experts * jnp.sum(f * p)


def router_z_loss(logits: Float[Array, "g t e"]) -> Float[Array, ""]:
    """Mean over tokens of logsumexp(logits)²: keeps router logits small (ST-MoE, Zoph et al. 2022, equation 5)."""
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) ** 2)
