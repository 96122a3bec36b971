"""Balanced assignment by Sinkhorn's algorithm (BASE, Lewis et al. 2021; S-BASE, Clark et al. 2022, appendix B)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from moejax.options import Count, NotNegative, checked
from moejax.routing.decision import TopKRouting, check_mask
from moejax.routing.replay import of_chosen
from moejax.routing.top_k import best


def sinkhorn_top_k(
    logits: Float[Array, "g t e"],
    k: int,
    mask: Bool[Array, "g t"] | None = None,
    *,
    balance: bool = True,
    given: Int[Array, "g t k"] | None = None,
) -> TopKRouting:
    """Choose the k best experts of the balanced plan; weigh them by the softmax of the raw logits.

    With `balance` False the raw logits choose: at evaluation one token's experts must not depend on other tokens.
    """
    scores = sinkhorn(jax.lax.stop_gradient(logits), mask) if balance else logits
    probs = jax.nn.softmax(logits, axis=-1)
    experts = best(scores, k, given)
    return TopKRouting(logits, probs, experts, of_chosen(probs, experts))


@checked
def sinkhorn(
    logits: Float[Array, "g t e"],
    mask: Bool[Array, "g t"] | None = None,
    *,
    tolerance: NotNegative = 1e-4,
    max_iterations: Count = 100,
) -> Float[Array, "g t e"]:
    """Logarithm of the plan exp(logits + a_t + b_e) whose rows sum to 1/t and whose columns sum to 1/e.

    Rows and columns are normalised in turn until every row sum of the group is right to a relative `tolerance`, or for
    `max_iterations`. A group that is done stays as it is while others go on. Padding is left out. Only the order within
    a row is used.
    """
    check_mask(mask, logits)
    real = jnp.ones((*logits.shape[:2], 1), bool) if mask is None else mask[..., None]
    rows = jnp.maximum(real.sum(1, keepdims=True), 1).astype(logits.dtype)  # g 1 1
    columns = jnp.full_like(rows, logits.shape[-1])

    def normalise(axis: int, plan: Float[Array, "g t e"], share: Float[Array, "g 1 1"]) -> Float[Array, "g t e"]:
        total = jax.nn.logsumexp(plan, axis=axis, keepdims=True, where=real)
        return plan - jnp.where(jnp.isfinite(total), total, 0) - jnp.log(share)

    def iterate(plan: Float[Array, "g t e"]) -> Float[Array, "g t e"]:
        return normalise(1, normalise(2, plan, rows), columns)

    def unbalanced(plan: Float[Array, "g t e"]) -> Bool[Array, "g 1 1"]:
        sums = jnp.exp(jax.nn.logsumexp(plan, axis=2, keepdims=True)) * rows
        return jnp.abs(jnp.where(real, sums - 1, 0)).max(axis=1, keepdims=True, initial=0) > tolerance

    def goes_on(carry: tuple[Array, Array, Array]) -> Array:
        _, iteration, open_groups = carry
        return (iteration < max_iterations) & open_groups.any()

    def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        plan, iteration, open_groups = carry
        plan = jnp.where(open_groups, iterate(plan), plan)
        return plan, iteration + 1, unbalanced(plan)

    first = iterate(logits)
    plan, *_ = jax.lax.while_loop(goes_on, step, (first, jnp.int32(1), unbalanced(first)))
    return plan
