"""Token choice: softmax and top-k in either order, the limit to groups of experts, ties, and logits without end."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import log

from moejax import routing
from moejax.routing.top_k import best

few = settings(max_examples=25)
G, T, E = 2, 4, 6
# Whole numbers in a small range: plenty of ties.
coarse_logits = hnp.arrays(np.float32, (G, T, E), elements=st.integers(-2, 2).map(float))
ks = st.sampled_from([1, 2, 5, E])
PROBS = [[[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]]

softmax_top_k = jax.jit(
    routing.softmax_top_k, static_argnums=1, static_argnames=("renormalize", "num_expert_groups", "topk_group")
)
top_k_softmax = jax.jit(routing.top_k_softmax, static_argnums=1)
switch = jax.jit(routing.switch)
limit_to_groups = jax.jit(routing.limit_to_groups, static_argnums=(1, 2, 3))


def assert_equals_loop(got, logits, choose):
    """Experts and weights are those that choose(logits of one token) names."""
    got = jax.tree.map(np.asarray, got)
    for g, t in np.ndindex(logits.shape[:2]):
        experts, weights = choose(logits[g, t].astype(np.float64))
        np.testing.assert_array_equal(got.experts[g, t], experts)
        np.testing.assert_allclose(got.weights[g, t], weights, rtol=1e-5)
        np.testing.assert_allclose(got.probs[g, t], reference.softmax(logits[g, t].astype(np.float64)), rtol=1e-5)
    np.testing.assert_array_equal(got.logits, logits)
    assert got.slots is None
    assert got.mask is None


def test_top_1_keeps_the_probability_as_weight():
    got = softmax_top_k(log(PROBS), 1)
    np.testing.assert_array_equal(got.experts, [[[0], [2]]])
    np.testing.assert_allclose(got.weights, [[[0.5], [0.7]]], rtol=1e-6)


def test_top_2_renormalises_the_weights():
    got = softmax_top_k(log(PROBS), 2)
    np.testing.assert_array_equal(got.experts, [[[0, 1], [2, 1]]])
    np.testing.assert_allclose(got.weights, [[[0.5 / 0.8, 0.3 / 0.8], [0.7 / 0.9, 0.2 / 0.9]]], rtol=1e-6)
    np.testing.assert_allclose(got.probs, PROBS, rtol=1e-6)


def test_top_2_keeps_the_probabilities_if_told_so():
    got = softmax_top_k(log(PROBS), 2, renormalize=False)
    np.testing.assert_array_equal(got.experts, [[[0, 1], [2, 1]]])
    np.testing.assert_allclose(got.weights, [[[0.5, 0.3], [0.7, 0.2]]], rtol=1e-6)


def test_the_choice_before_the_softmax_weighs_by_the_chosen_logits_alone():
    got = top_k_softmax(log(PROBS), 2)
    np.testing.assert_array_equal(got.experts, [[[0, 1], [2, 1]]])
    np.testing.assert_allclose(got.weights, [[[0.5 / 0.8, 0.3 / 0.8], [0.7 / 0.9, 0.2 / 0.9]]], rtol=1e-6)
    np.testing.assert_array_equal(top_k_softmax(log(PROBS), 1).weights, [[[1], [1]]])


def test_switch_takes_the_most_probable_expert_and_its_probability():
    got = switch(log(PROBS))
    np.testing.assert_array_equal(got.experts, [[[0], [2]]])
    np.testing.assert_allclose(got.weights, [[[0.5], [0.7]]], rtol=1e-6)


def test_ties_go_to_the_lower_expert_index():
    logits = jnp.array([[[0.0, 0, 0, 0], [0, 1, 1, 1], [1, 0, 1, 0]]])
    for choice in (softmax_top_k, top_k_softmax):
        np.testing.assert_array_equal(choice(logits, 3).experts, [[[0, 1, 2], [1, 2, 3], [0, 2, 1]]])


@pytest.mark.parametrize("groups", [1, 2])
def test_where_probabilities_vanish_the_logits_decide(groups):
    got = softmax_top_k(jnp.array([[[0.0, -300.0, -200.0, -150.0]]]), 2, num_expert_groups=groups, topk_group=groups)
    np.testing.assert_array_equal(got.experts, [[[0, 3]]])


def test_gates_and_choices_before_anything_is_dropped():
    got = softmax_top_k(log(PROBS), 2)
    np.testing.assert_allclose(got.gates, [[[5 / 8, 3 / 8, 0], [0, 2 / 9, 7 / 9]]], rtol=1e-6)
    np.testing.assert_array_equal(got.choices, [[[1, 1, 0], [0, 1, 1]]])
    np.testing.assert_array_equal(got.dispatched, got.choices)
    assert got.kept.all()


@few
@given(coarse_logits, ks, st.booleans())
def test_softmax_top_k_equals_a_loop(logits, k, renormalize):
    got = softmax_top_k(logits, k, renormalize=renormalize)
    assert_equals_loop(got, logits, lambda token: reference.choose(token, k, renormalize))


@few
@given(coarse_logits, ks)
def test_top_k_softmax_equals_a_loop_and_the_renormalised_order(logits, k):
    got = top_k_softmax(logits, k)
    assert_equals_loop(got, logits, lambda token: reference.choose_then_softmax(token, k))
    if k > 1:
        np.testing.assert_allclose(got.weights, softmax_top_k(logits, k).weights, rtol=1e-5)


def test_switch_is_the_top_1_of_the_softmax():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(G, T, E)), jnp.float32)
    assert_equals_loop(switch(logits), np.asarray(logits), lambda token: reference.choose(token, 1))


def test_the_best_are_named_in_order():
    np.testing.assert_array_equal(best(jnp.array([[[0.1, 0.5, 0.4]]]), 3), [[[1, 2, 0]]])


# Limit to groups of experts


def test_a_group_of_experts_scores_its_best_or_its_best_two():
    # Groups (9, 0), (5, 5), (1, 7). By the best: 9, 5, 7. By the best two: 9, 10, 8.
    scores = jnp.array([[[9.0, 0, 5, 5, 1, 7]]])
    no = -np.inf
    np.testing.assert_array_equal(limit_to_groups(scores, 3, 1, 1), [[[9, 0, no, no, no, no]]])
    np.testing.assert_array_equal(limit_to_groups(scores, 3, 2, 1), [[[9, 0, no, no, 1, 7]]])
    np.testing.assert_array_equal(limit_to_groups(scores, 3, 1, 2), [[[no, no, 5, 5, no, no]]])
    np.testing.assert_array_equal(limit_to_groups(scores, 3, 2, 2), [[[9, 0, 5, 5, no, no]]])


def test_all_groups_are_no_limit():
    scores = jnp.arange(6.0).reshape(1, 1, 6)
    np.testing.assert_array_equal(limit_to_groups(scores, 3, 3, 1), scores)
    np.testing.assert_array_equal(limit_to_groups(scores, 1, 1, 1), scores)


def test_the_limit_holds_for_the_choice_but_not_for_the_probabilities():
    # Groups {0, 1} and {2, 3}: the best of the first is .4, so expert 2, second in all, is out.
    got = softmax_top_k(log([[[0.4, 0.1, 0.3, 0.2]]]), 2, num_expert_groups=2, topk_group=1)
    np.testing.assert_array_equal(got.experts, [[[0, 1]]])
    np.testing.assert_allclose(got.weights, [[[0.8, 0.2]]], rtol=1e-6)
    np.testing.assert_allclose(got.probs, [[[0.4, 0.1, 0.3, 0.2]]], rtol=1e-6)


@few
@given(coarse_logits, st.sampled_from([(2, 1, 1), (2, 1, 2), (3, 2, 1), (3, 1, 2), (6, 4, 1)]))
def test_the_limit_equals_a_loop(scores, groups):
    got = np.asarray(limit_to_groups(scores, *groups))
    for g, t in np.ndindex(G, T):
        np.testing.assert_array_equal(got[g, t], reference.limit_to_groups(scores[g, t], *groups))


@few
@given(coarse_logits, st.sampled_from([(2, 1), (3, 1), (3, 2)]))
def test_a_token_stays_within_so_many_groups(logits, groups):
    num_expert_groups, topk_group = groups
    got = softmax_top_k(logits, 2, num_expert_groups=num_expert_groups, topk_group=topk_group)
    of_group = np.asarray(got.experts) // (E // num_expert_groups)
    assert all(len(set(token)) <= topk_group for token in of_group.reshape(-1, 2))


# Gradients


def test_the_only_choice_still_gives_the_router_a_gradient():
    # p_0 = 0.5, so its derivative by the logits is p_0 · (1 - p_0, -p_1, -p_2).
    gradient = jax.grad(lambda logits: routing.softmax_top_k(logits, 1).weights.sum())(log([[[0.5, 0.3, 0.2]]]))
    np.testing.assert_allclose(gradient, [[[0.25, -0.15, -0.1]]], rtol=1e-5)


def test_the_only_choice_before_a_softmax_gives_the_router_none():
    gradient = jax.grad(lambda logits: routing.top_k_softmax(logits, 1).weights.sum())(log([[[0.5, 0.3, 0.2]]]))
    np.testing.assert_array_equal(gradient, np.zeros((1, 1, 3)))


def test_renormalised_weights_have_the_same_gradient_in_either_order():
    # Among the chosen with shares .625 and .375, the first one's derivative is ± .625 · .375; none for the expert left.
    for choice in (routing.softmax_top_k, routing.top_k_softmax):
        gradient = jax.grad(lambda logits, choice=choice: choice(logits, 2).weights[0, 0, 0])(log([[[0.5, 0.3, 0.2]]]))
        np.testing.assert_allclose(gradient, [[[0.234375, -0.234375, 0]]], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("choice", [routing.softmax_top_k, routing.top_k_softmax])
@pytest.mark.parametrize("factor", [1e4, -1e4])
def test_huge_logits_neither_overflow_nor_spoil_the_gradient(choice, factor):
    # The weights are 1 and 0.
    logits = factor * jnp.array([[[1.0, 0.0, 0.5]]])
    value, gradient = jax.value_and_grad(lambda logits: choice(logits, 2).weights[0, 0, 0])(logits)
    np.testing.assert_allclose(value, 1)
    assert np.isfinite(gradient).all()


# Logits that are not finite

TOKEN_CHOICES = {
    "softmax_top_k": routing.softmax_top_k,
    "not_renormalised": partial(routing.softmax_top_k, renormalize=False),
    "top_k_softmax": routing.top_k_softmax,
    "noisy_top_k": lambda logits, k: routing.noisy_top_k(logits, jnp.zeros_like(logits), k, jax.random.key(0)),
    "vmoe_top_k": lambda logits, k: routing.vmoe_top_k(logits, k, jax.random.key(0)),
}
token_choices = pytest.mark.parametrize("choice", TOKEN_CHOICES)


@partial(jax.jit, static_argnums=(0, 1))
def chosen_by(choice, k, logits):
    """Weights, experts, probabilities, gates; and the gradient of the first weights."""

    def first_weights(logits):
        got = TOKEN_CHOICES[choice](logits, k)
        return got.weights[..., 0].sum(), (got.weights, got.experts, got.probs, got.gates)

    gradient, got = jax.grad(first_weights, has_aux=True)(logits)
    return *got, gradient


@token_choices
@pytest.mark.parametrize("k", [1, 2])
def test_minus_infinity_bars_an_expert(choice, k):
    logits = np.random.default_rng(0).normal(size=(1, 5, 4)).astype(np.float32)
    logits[0, 0, [0, 2]] = logits[0, 1, 1] = -np.inf
    weights, experts, probs, _, gradient = map(np.asarray, chosen_by(choice, k, logits))
    assert not {0, 2} & set(experts[0, 0].tolist())
    assert 1 not in experts[0, 1]
    assert np.isfinite(weights).all()
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(probs[0, 0, [0, 2]], [0, 0])


# A processor's own 0/0 is a NaN with its sign bit set, which a sort puts below everything else.
minus_nan = np.uint32(0xFFC00000).view(np.float32)


@token_choices
@pytest.mark.parametrize("spoilt", [np.nan, minus_nan, np.inf], ids=["nan", "minus_nan", "inf"])
@pytest.mark.parametrize("k", [1, 2])
def test_a_token_without_a_number_gets_nan_weights_and_touches_no_other(choice, spoilt, k):
    logits = np.random.default_rng(0).normal(size=(1, 5, 4)).astype(np.float32)
    bad = logits.copy()
    bad[0, 2, 3] = spoilt

    want, got = (list(map(np.asarray, chosen_by(choice, k, a))) for a in (logits, bad))
    assert np.isnan(got[0][0, 2]).all()
    others = [0, 1, 3, 4]
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a[:, others], b[:, others])
