"""Experts that compute nothing, as a routing has them: worked by hand, and against the papers' formulas by loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import log, softmax

from moejax import losses, metrics
from moejax.routing import (
    TopKRouting,
    ZeroComputation,
    assign,
    computing_part,
    dense_routing,
    expert_choice,
    mask_tokens,
    meant_shares,
    softmax_top_k,
    with_zero_computation,
)

# Two experts that compute, then one that adds nothing and one that adds the token.
ZERO_AND_COPY = ZeroComputation(zero=1, copy=1)


def routed(experts, weights, kinds, num_experts=4):
    """A routing of one group by its choices [t, k] and weights [t, k]; the distribution is uniform."""
    flat = jnp.zeros((1, len(experts), num_experts))
    routing = TopKRouting(flat, flat + 1 / num_experts, jnp.array([experts]), jnp.array([weights], jnp.float32))
    return jax.jit(with_zero_computation, static_argnums=1)(routing, kinds)


def test_a_choice_that_costs_nothing_has_room_whatever_the_capacity_is():
    experts = [[0, 2], [0, 3], [0, 2], [1, 2]]
    routing = jax.jit(assign, static_argnums=1)(routed(experts, [[0.6, 0.4]] * 4, ZERO_AND_COPY), 1)
    np.testing.assert_array_equal(routing.slots[0], [[0, 0], [-1, 0], [-1, 1], [0, 2]])
    np.testing.assert_array_equal(routing.kept[0], [[True, True], [False, True], [False, True], [True, True]])
    np.testing.assert_allclose(
        routing.gates[0], [[0.6, 0, 0.4, 0], [0, 0, 0, 0.4], [0, 0, 0.4, 0], [0, 0.6, 0.4, 0]], rtol=1e-6
    )
    assert routing.computing == 2
    np.testing.assert_allclose(metrics.dropped(routing), 2 / 8)
    np.testing.assert_allclose(metrics.load(routing), [3 / 8, 1 / 8, 3 / 8, 1 / 8])
    np.testing.assert_allclose(metrics.load(routing, after_capacity=True), [1 / 6, 1 / 6, 3 / 6, 1 / 6])
    # Experts that worked: 1 for the first token and for the last, none for the other two.
    np.testing.assert_allclose(metrics.experts_computed(routing), 2 / 4)


def test_experts_computed_leaves_padding_out_and_counts_all_where_all_compute():
    routing = routed([[0, 1], [2, 3], [0, 3]], [[0.6, 0.4]] * 3, ZERO_AND_COPY)
    np.testing.assert_allclose(metrics.experts_computed(routing), 1)
    masked = mask_tokens(routing, jnp.array([[True, False, True]]))
    np.testing.assert_allclose(metrics.experts_computed(masked), 3 / 2)
    np.testing.assert_allclose(metrics.experts_computed(routing._replace(zero_computation=None)), 2)
    # Of expert choice: two experts take one of two tokens each.
    by_experts = expert_choice(log([[[0.9, 0.1], [0.2, 0.8]]]), 1)
    np.testing.assert_allclose(metrics.experts_computed(by_experts), 1)
    with pytest.raises(
        TypeError, match=r"^experts_computed is of a TopKRouting or ExpertChoiceRouting, not of a Dense"
    ):
        metrics.experts_computed(dense_routing(log(PROBS[None])))


def test_dispatch_gets_the_experts_that_compute_and_their_choices():
    routing = assign(routed([[0, 2], [3, 1], [2, 3]], [[0.6, 0.4]] * 3, ZERO_AND_COPY), 1)
    part = jax.jit(computing_part)(routing)
    np.testing.assert_array_equal(part.experts[0], [[0, -1], [-1, 1], [-1, -1]])
    np.testing.assert_array_equal(part.slots[0], [[0, -1], [-1, 0], [-1, -1]])
    np.testing.assert_allclose(part.gates[0], [[0.6, 0], [0, 0.4], [0, 0]], rtol=1e-6)
    assert part.logits.shape == part.probs.shape == (1, 3, 2)
    dropless = computing_part(routing._replace(slots=None))
    np.testing.assert_array_equal(dropless.kept, part.kept)


def test_null_experts_give_their_weight_to_the_others_of_the_token():
    kinds = ZeroComputation(null=2)
    experts = [[0, 1, 2], [0, 3, 1], [3, 0, 2], [3, 2, 0], [0, 2, 3]]
    weights = [[0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.7, 0.2, 0.1], [0.5, 0.3, 0.0], [0.2, 0.1, 0.1]]
    got = routed(experts, weights, kinds).weights[0]
    want = [
        [0.625, 0.375, 0],  # 5 : 3, together 1
        [6 / 7, 0, 1 / 7],
        [0, 1, 0],
        [0, 0, 0],  # the only other one has no weight to grow
        [0.4, 0, 0],  # together what they were
    ]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    padded = mask_tokens(routed(experts, weights, kinds), jnp.zeros((1, 5), bool))
    np.testing.assert_array_equal(padded.weights, 0)


def test_null_weights_have_finite_gradients_where_all_of_a_tokens_choices_are_null():
    def total(logits):
        return (with_zero_computation(softmax_top_k(logits, 2), ZeroComputation(null=2)).weights ** 2).sum()

    gradient = jax.jit(jax.grad(total))(jnp.array([[[0.0, 1, 5, 6], [2, 1, 0, 5]]]))
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[0, 0], 0)


PROBS = np.array([softmax(token) for token in np.random.default_rng(0).normal(size=(7, 6))])
EXPERTS = np.argsort(-PROBS, axis=1)[:, :2]


def loss_of(kinds):
    routing = TopKRouting(log(PROBS[None]), jnp.float32(PROBS[None]), jnp.array(EXPERTS[None]), jnp.ones((1, 7, 2)) / 2)
    return jax.jit(losses.load_balance_loss)(with_zero_computation(routing, kinds))


@pytest.mark.parametrize("tau", [0.25, 0.75, 1.0, 3.0])
def test_balance_is_the_heterogeneous_loss_of_the_paper(tau):
    computing, free, k, tokens = 4, 2, 2, len(PROBS)
    total = 0.0
    for i in range(6):
        f = sum(i in experts for experts in EXPERTS) / tokens  # share of tokens that choose it
        eta = 1 if i < computing else tau
        total += eta * f * sum(PROBS[:, i]) / tokens
    want = total * (tau * computing + free) / (tau * k)
    np.testing.assert_allclose(loss_of(ZeroComputation(zero=1, copy=1, tau=tau)), want, rtol=1e-5)


def test_balance_with_tau_1_is_that_of_as_many_experts_that_compute():
    np.testing.assert_allclose(loss_of(ZeroComputation(zero=2)), loss_of(None), rtol=1e-6)


def test_balance_counts_null_experts_together():
    total = 0.0
    for i in range(6):
        f = [sum(j in experts for experts in EXPERTS) / (2 * len(PROBS)) for j in ([i] if i < 3 else [3, 4, 5])]
        total += 6 * np.mean(f) * np.mean(PROBS[:, i])
    np.testing.assert_allclose(loss_of(ZeroComputation(null=3)), total, rtol=1e-5)


@pytest.mark.parametrize(("tau", "null"), [(1.0, False), (0.5, False), (2.0, True)])
def test_balance_is_1_where_all_have_the_share_that_they_are_meant_to_get(tau, null):
    kinds = ZeroComputation(null=2, tau=tau) if null else ZeroComputation(zero=1, constant=1, tau=tau)
    shares = meant_shares(2, kinds)
    np.testing.assert_allclose(shares, np.array([tau, tau, 1, 1]) / (2 * tau + 2), rtol=1e-6)
    # Twelve choices by these shares; of null experts all may fall on one.
    counts = np.round(12 * shares).astype(int)
    counts[2:] = [counts[2:].sum(), 0] if null else counts[2:]
    experts = np.repeat(np.arange(4), counts)[None, :, None]
    probs = jnp.broadcast_to(jnp.asarray(shares), (1, 12, 4))
    routing = TopKRouting(jnp.log(probs), probs, jnp.array(experts), jnp.ones((1, 12, 1)), zero_computation=kinds)
    np.testing.assert_allclose(losses.load_balance_loss(routing), 1, rtol=1e-6)
