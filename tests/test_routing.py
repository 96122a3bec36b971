"""Routing: worked by hand where small, against loops where random, and the laws of who sits where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import choose, fill

from moejax import routing as functions
from moejax.routing import TopKRouting, expert_capacity

dense_routing, soft_routing = map(jax.jit, (functions.dense_routing, functions.soft_routing))
top_k_routing, assign = (jax.jit(f, static_argnums=1) for f in (functions.top_k_routing, functions.assign))

few = settings(deadline=None, max_examples=25)
G, T, E = 2, 6, 4
# Whole numbers in a small range: plenty of ties and of crowded experts.
coarse_logits = hnp.arrays(np.float32, (G, T, E), elements=st.integers(-2, 2).map(float))
capacities = st.sampled_from([2, T])
ks = st.sampled_from([1, 2, E])


def log(probs):
    """Logits whose softmax is `probs`."""
    return jnp.asarray(np.log(probs), jnp.float32)


@jax.jit(static_argnames=("k", "capacity"))
def traced_route(logits, k, capacity):
    return assign(top_k_routing(logits, k), capacity)


def route(logits, k, capacity):
    """A routing of NumPy arrays, which a loop may index quickly."""
    return jax.tree.map(np.asarray, traced_route(logits, k, capacity))


def chosen(experts, num_experts):
    """A routing by its choices [g, t, k] alone, with equal weights."""
    experts = jnp.asarray(experts)
    flat = jnp.zeros((*experts.shape[:2], num_experts))
    return TopKRouting(flat, flat + 1 / num_experts, experts, jnp.ones(experts.shape) / experts.shape[-1])


def test_dense_gates_are_the_softmax():
    routing = dense_routing(log([[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]]))
    np.testing.assert_allclose(routing.gates, [[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]], rtol=1e-6)


def test_top_1_keeps_the_probability_as_weight():
    routing = top_k_routing(log([[[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]]), 1)
    np.testing.assert_array_equal(routing.experts, [[[0], [2]]])
    np.testing.assert_allclose(routing.weights, [[[0.5], [0.7]]], rtol=1e-6)
    assert routing.slots is None


def test_top_2_renormalises_the_weights():
    routing = top_k_routing(log([[[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]]), 2)
    np.testing.assert_array_equal(routing.experts, [[[0, 1], [2, 1]]])
    np.testing.assert_allclose(routing.weights, [[[0.5 / 0.8, 0.3 / 0.8], [0.7 / 0.9, 0.2 / 0.9]]], rtol=1e-6)
    np.testing.assert_allclose(routing.probs, [[[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]], rtol=1e-6)


def test_ties_go_to_the_lower_expert_index():
    logits = jnp.array([[[0.0, 0, 0, 0], [0, 1, 1, 1], [1, 0, 1, 0]]])
    np.testing.assert_array_equal(top_k_routing(logits, 3).experts, [[[0, 1, 2], [1, 2, 3], [0, 2, 1]]])


def test_gates_and_choices_before_anything_is_dropped():
    routing = top_k_routing(log([[[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]]), 2)
    np.testing.assert_allclose(routing.gates, [[[5 / 8, 3 / 8, 0], [0, 2 / 9, 7 / 9]]], rtol=1e-6)
    np.testing.assert_array_equal(routing.choices, [[[1, 1, 0], [0, 1, 1]]])


def test_a_dropped_choice_leaves_the_gates_but_not_the_choices():
    # Both tokens prefer expert 0, which has one slot: the second is dropped there, and its other weight stays 0.4.
    routing = assign(top_k_routing(log([[[0.5, 0.5 - 1e-3, 1e-3], [0.6, 1e-9, 0.4]]]), 2), 1)
    np.testing.assert_array_equal(routing.experts, [[[0, 1], [0, 2]]])
    np.testing.assert_array_equal(routing.slots, [[[0, 0], [-1, 0]]])
    np.testing.assert_allclose(routing.gates[0, 1], [0, 0, 0.4], rtol=1e-5)
    np.testing.assert_array_equal(routing.choices, [[[1, 1, 0], [1, 0, 1]]])


@pytest.mark.parametrize(
    ("tokens", "num_experts", "k", "factor", "capacity"),
    [
        (8, 4, 1, 1.0, 2),
        (8, 4, 2, 1.0, 4),
        (8, 4, 2, 1.25, 5),
        (7, 4, 1, 1.0, 2),  # 1.75, rounded up
        (49, 8, 2, 1.25, 16),  # 15.3125
        (49, 8, 2, 2.0, 25),  # 24.5
        (8, 4, 1, 0.01, 1),  # at least 1
        (1, 64, 1, 1.0, 1),
        (8, 4, 2, 100.0, 8),  # at most all tokens
        (5, 3, 3, 1.0, 5),
    ],
)
def test_capacity_rounds_up_and_lies_between_1_and_all_tokens(tokens, num_experts, k, factor, capacity):
    assert expert_capacity(tokens, num_experts, k, factor) == capacity


def test_first_choices_take_their_slots_before_any_second_choice():
    # Expert 0: tokens 0 and 1 by first choice, so token 2's second choice finds it full.
    # Expert 1: token 2 by first choice, then token 0 by second choice, and token 1 finds it full.
    routing = assign(chosen([[[0, 1], [0, 1], [1, 0]]], 2), 2)
    np.testing.assert_array_equal(routing.slots, [[[0, 1], [1, -1], [0, -1]]])


def test_groups_are_filled_one_by_one():
    routing = assign(chosen([[[2], [2], [0]], [[2], [0], [0]]], 3), 1)
    np.testing.assert_array_equal(routing.slots, [[[0], [-1], [0]], [[0], [0], [-1]]])


def test_assign_leaves_the_weights_alone():
    routing = chosen([[[0, 1], [0, 1], [0, 1]]], 2)
    np.testing.assert_array_equal(assign(routing, 1).weights, routing.weights)


def test_soft_softmaxes_over_tokens_and_over_slots():
    # Two tokens (rows), two experts of one slot (columns): columns of [[1, 3], [1, 1]] sum to 2 and 4, rows to 4 and 2.
    routing = soft_routing(log([[1, 3], [1, 1]])[None, :, :, None])
    np.testing.assert_allclose(routing.dispatch[0, :, :, 0], [[1 / 2, 3 / 4], [1 / 2, 1 / 4]], rtol=1e-6)
    np.testing.assert_allclose(routing.combine[0, :, :, 0], [[1 / 4, 3 / 4], [1 / 2, 1 / 2]], rtol=1e-6)


def test_soft_gates_add_up_an_experts_slots():
    # One token; expert 0's slots weigh 1 and 2, expert 1's 3 and 4, of 10 in all.
    routing = soft_routing(log([[1, 2], [3, 4]])[None, None])
    np.testing.assert_allclose(routing.gates, [[[0.3, 0.7]]], rtol=1e-6)
    np.testing.assert_allclose(routing.dispatch, jnp.ones((1, 1, 2, 2)))


@pytest.mark.parametrize("factor", [1e4, -1e4])
def test_huge_logits_neither_overflow_nor_spoil_the_gradient(factor):
    logits = factor * jnp.array([[[1.0, 0.0, 0.5]]])

    def weight(logits):
        return top_k_routing(logits, 2).weights[0, 0, 0] + soft_routing(logits[..., None]).combine[0, 0, 0, 0]

    value, gradient = jax.jit(jax.value_and_grad(weight))(logits)
    np.testing.assert_allclose(value, 2.0 if factor > 0 else 1.0)
    assert np.isfinite(gradient).all()


def test_the_only_choice_still_gives_the_router_a_gradient():
    # p_0 = 0.5, so its derivative by the logits is p_0 · (1 - p_0, -p_1, -p_2).
    gradient = jax.grad(lambda logits: top_k_routing(logits, 1).weights.sum())(log([[[0.5, 0.3, 0.2]]]))
    np.testing.assert_allclose(gradient, [[[0.25, -0.15, -0.1]]], rtol=1e-5)


@few
@given(coarse_logits, ks, capacities)
def test_routing_equals_a_loop_over_tokens(logits, k, capacity):
    routing = route(logits, k, capacity)
    for g in range(G):
        choices = [choose(logits[g, t].astype(np.float64), k) for t in range(T)]
        np.testing.assert_array_equal(routing.experts[g], [experts for experts, _ in choices])
        np.testing.assert_allclose(routing.weights[g], [weights for _, weights in choices], rtol=1e-5)
        np.testing.assert_array_equal(routing.slots[g], fill(routing.experts[g], capacity))


@few
@given(coarse_logits, ks, capacities)
def test_no_expert_sees_a_token_twice_and_no_slot_holds_two(logits, k, capacity):
    routing = route(logits, k, capacity)
    experts, slots = np.asarray(routing.experts), np.asarray(routing.slots)
    assert all(len(set(token)) == k for token in experts.reshape(-1, k))
    assert slots.max() < capacity
    for g in range(G):
        taken = [(e, c) for e, c in zip(experts[g].flat, slots[g].flat, strict=True) if c >= 0]
        assert len(set(taken)) == len(taken)


@few
@given(coarse_logits, ks)
def test_nothing_is_dropped_when_the_capacity_is_all_tokens(logits, k):
    assert (route(logits, k, T).slots >= 0).all()


@few
@given(coarse_logits, ks, capacities)
def test_a_choice_is_dropped_only_by_choices_of_higher_priority(logits, k, capacity):
    routing = route(logits, k, capacity)
    for g, t, choice in zip(*np.nonzero(routing.slots < 0), strict=True):
        rivals = np.argwhere((routing.experts[g] == routing.experts[g, t, choice]) & (routing.slots[g] >= 0))
        assert len(rivals) == capacity
        assert all((rival_choice, rival) < (choice, t) for rival, rival_choice in rivals)


@few
@given(st.integers(0, 1000), st.permutations(range(E)), ks, capacities)
def test_permuting_experts_permutes_the_routing(seed, order, k, capacity):
    logits = np.random.default_rng(seed).normal(size=(G, T, E)).astype(np.float32)
    routing, permuted = route(logits, k, capacity), route(logits[..., order], k, capacity)
    np.testing.assert_array_equal(np.take(order, permuted.experts), routing.experts)
    np.testing.assert_array_equal(permuted.slots, routing.slots)
    np.testing.assert_allclose(permuted.gates, routing.gates[..., np.array(order)], rtol=1e-5)


@few
@given(coarse_logits, st.sampled_from([2, E]))
def test_gates_of_an_undropped_token_sum_to_1(logits, k):
    np.testing.assert_allclose(route(logits, k, T).gates.sum(-1), np.ones((G, T)), rtol=1e-6)
    np.testing.assert_allclose(dense_routing(jnp.asarray(logits)).gates.sum(-1), np.ones((G, T)), rtol=1e-6)


@few
@given(hnp.arrays(np.float32, (G, 3, E, 2), elements=st.integers(-9, 9).map(float)))
def test_soft_slots_and_soft_tokens_are_mixtures_that_sum_to_1(logits):
    routing = soft_routing(logits)
    np.testing.assert_allclose(routing.dispatch.sum(1), np.ones((G, E, 2)), rtol=1e-5)
    np.testing.assert_allclose(routing.combine.sum((2, 3)), np.ones((G, 3)), rtol=1e-5)
    np.testing.assert_allclose(routing.gates.sum(-1), np.ones((G, 3)), rtol=1e-5)


@pytest.mark.parametrize("k", [1, 2, E])
def test_gradients_are_finite_where_all_experts_tie(k):
    gradient = jax.jit(jax.grad(lambda logits: (traced_route(logits, k, 2).gates ** 2).sum()))(jnp.zeros((G, T, E)))
    assert np.isfinite(gradient).all()
