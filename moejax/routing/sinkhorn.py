"""Balanced assignment by Sinkhorn's algorithm (BASE, Lewis et al. 2021; S-BASE, Clark et al. 2022, appendix B)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from moejax.routing.decision import TopKRouting
from moejax.routing.top_k import best


def sinkhorn_top_k(
    logits: Float[Array, "g t e"], k: int, mask: Bool[Array, "g t"] | None = None, *, balance: bool = True
) -> TopKRouting:
    """Choose the k best experts of the balanced plan; weigh them by the softmax of the raw logits.

    With `balance` False, as at evaluation, where one token must not depend on the others, the raw logits choose.
    """
    scores = sinkhorn(jax.lax.stop_gradient(logits), mask) if balance else logits
    probs = jax.nn.softmax(logits, axis=-1)
    experts = best(scores, k)
    return TopKRouting(logits, probs, experts, jnp.take_along_axis(probs, experts, axis=-1))


def sinkhorn(
    logits: Float[Array, "g t e"],
    mask: Bool[Array, "g t"] | None = None,
    *,
    tolerance: float = 1e-4,
    max_iterations: int = 100,
) -> Float[Array, "g t e"]:
    """Logarithm of the plan exp(logits + a_t + b_e), of rows that sum to 1/t and columns that sum to 1/e.

    Rows and columns are normalised in turn until no row's sum is off by more than `tolerance` of itself, or for
    `max_iterations`; padding has no part in it. Group by group; of its result, only the order within a row matters.
    """
    num_experts = logits.shape[-1]
    real = jnp.ones((*logits.shape[:2], 1), bool) if mask is None else mask[..., None]
    rows = jnp.maximum(real.sum(1, keepdims=True), 1)  # g 1 1

    def normalise(axis: int, plan: Float[Array, "g t e"], share: Array) -> Float[Array, "g t e"]:
        total = jax.nn.logsumexp(plan, axis=axis, keepdims=True, where=real)
        return plan - jnp.where(jnp.isfinite(total), total, 0) - jnp.log(share)

    def unbalanced(carry: tuple[Array, Array]) -> Array:
        plan, iteration = carry
        sums = jnp.exp(jax.nn.logsumexp(plan, axis=2, keepdims=True)) * rows
        return (iteration < max_iterations) & (jnp.abs(jnp.where(real, sums - 1, 0)).max() > tolerance)

    def iterate(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        plan, iteration = carry
        return normalise(1, normalise(2, plan, rows), jnp.float32(num_experts)), iteration + 1

    plan, _ = jax.lax.while_loop(unbalanced, iterate, iterate((logits, jnp.int32(0))))
    return plan
