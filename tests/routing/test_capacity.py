"""Capacity: who gets a slot, by position and by priority, and what padding does not take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import chosen, log

from moejax import routing
from moejax.routing import expert_capacity, mask_tokens, softmax_top_k

few = settings(max_examples=25)
G, T, E = 2, 6, 4
assign = jax.jit(routing.assign, static_argnums=1)
# Choices of few experts, so that they are crowded, and of a token's k experts all different.
rankings = hnp.arrays(np.float32, (G, T, E), elements=st.integers(-2, 2).map(float))
priorities = hnp.arrays(np.float32, (G, T), elements=st.integers(0, 3).map(float))
masks = hnp.arrays(bool, (G, T))


@jax.jit(static_argnums=1)
def slots_of(experts, capacity, priority):
    return routing.assign(chosen(experts, E), capacity, priority).slots


def choices_of(ranking, k):
    return np.argsort(-ranking, axis=-1, kind="stable")[..., :k].astype(np.int32)


@pytest.mark.parametrize(
    ("tokens", "num_experts", "k", "factor", "capacity"),
    [
        (8, 4, 1, 1.0, 2),
        (8, 4, 2, 1.0, 4),
        (8, 4, 2, 1.25, 5),
        (7, 4, 1, 1.0, 2),  # 1.75, rounded up
        (49, 8, 2, 1.25, 16),  # 15.3125
        (49, 8, 2, 2.0, 25),  # 24.5
        (100, 2, 1, 1.1, 55),  # not 56, though 1.1 · 100 / 2 is 55.000000000000007 in floating point
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
    got = assign(chosen([[[0, 1], [0, 1], [1, 0]]], 2), 2)
    np.testing.assert_array_equal(got.slots, [[[0, 1], [1, -1], [0, -1]]])
    np.testing.assert_array_equal(got.kept, [[[True, True], [True, False], [True, False]]])


def test_groups_are_filled_one_by_one():
    got = assign(chosen([[[2], [2], [0]], [[2], [0], [0]]], 3), 1)
    np.testing.assert_array_equal(got.slots, [[[0], [-1], [0]], [[0], [0], [-1]]])


def test_with_a_priority_the_most_important_tokens_come_first():
    # In the order 2, 0, 1. Expert 1: token 2, then nobody by first choice, then token 0 by second. Expert 0: 0, 1.
    routing = chosen([[[0, 1], [0, 1], [1, 0]]], 2)
    got = assign(routing, 2, jnp.array([[0.5, 0.4, 0.9]]))
    np.testing.assert_array_equal(got.slots, [[[0, 1], [1, -1], [0, -1]]])
    # In the order 1, 2, 0 and with one slot: expert 0 takes token 1, expert 1 token 2.
    got = assign(routing, 1, jnp.array([[0.1, 0.9, 0.5]]))
    np.testing.assert_array_equal(got.slots, [[[-1, -1], [0, -1], [0, -1]]])


def test_equal_priorities_leave_the_order_of_the_tokens():
    routing = chosen([[[0], [0], [0], [0]]], 2)
    got = assign(routing, 2, jnp.array([[0.3, 0.7, 0.3, 0.7]]))
    np.testing.assert_array_equal(got.slots, [[[-1], [0], [-1], [1]]])
    np.testing.assert_array_equal(assign(routing, 2, jnp.ones((1, 4))).slots, assign(routing, 2).slots)


def test_a_second_choice_waits_however_important_its_token_is():
    # Token 0 is the most important, but its second choice, expert 1, is token 1's first.
    got = assign(chosen([[[0, 1], [1, 0]]], 2), 1, jnp.array([[0.9, 0.1]]))
    np.testing.assert_array_equal(got.slots, [[[0, -1], [0, -1]]])


def test_padding_takes_no_slot_and_no_weight():
    routing = mask_tokens(chosen([[[0, 1], [0, 1], [0, 1]]], 2), jnp.array([[False, True, True]]))
    np.testing.assert_array_equal(routing.experts, [[[-1, -1], [0, 1], [0, 1]]])
    np.testing.assert_array_equal(routing.weights, [[[0, 0], [0.5, 0.5], [0.5, 0.5]]])
    got = assign(routing, 1)
    np.testing.assert_array_equal(got.slots, [[[-1, -1], [0, 0], [-1, -1]]])
    np.testing.assert_array_equal(got.gates, [[[0, 0], [0.5, 0.5], [0, 0]]])
    np.testing.assert_array_equal(got.choices, [[[0, 0], [1, 1], [1, 1]]])
    np.testing.assert_array_equal(got.dispatched, [[[0, 0], [1, 1], [0, 0]]])
    # Not even the most important padding.
    np.testing.assert_array_equal(assign(routing, 1, jnp.array([[9.0, 0, 1]])).slots, [[[-1, -1], [-1, -1], [0, 0]]])


def test_without_a_mask_nothing_is_padding():
    routing = chosen([[[0, 1]]], 2)
    assert mask_tokens(routing, None) is routing


def test_a_dropped_choice_leaves_the_gates_but_not_the_choices():
    # Both tokens prefer expert 0, which has one slot: the second is dropped there, and its other weight stays 0.4.
    got = assign(softmax_top_k(log([[[0.5, 0.5 - 1e-3, 1e-3], [0.6, 1e-9, 0.4]]]), 2), 1)
    np.testing.assert_array_equal(got.experts, [[[0, 1], [0, 2]]])
    np.testing.assert_array_equal(got.slots, [[[0, 0], [-1, 0]]])
    np.testing.assert_allclose(got.gates[0, 1], [0, 0, 0.4], rtol=1e-5)
    np.testing.assert_array_equal(got.choices, [[[1, 1, 0], [1, 0, 1]]])
    np.testing.assert_array_equal(got.dispatched, [[[1, 1, 0], [0, 0, 1]]])


def test_assign_leaves_all_but_the_slots_alone():
    routing = chosen([[[0, 1], [0, 1], [0, 1]]], 2)
    got = assign(routing, 1)
    for field in set(routing._fields) - {"slots"}:
        np.testing.assert_array_equal(getattr(got, field), getattr(routing, field))


@few
@given(rankings, priorities, masks, st.sampled_from([(1, 2), (2, 1), (E, T)]), st.booleans())
def test_slots_equal_a_loop_with_and_without_priority_and_padding(ranking, priority, mask, size, by_priority):
    k, capacity = size
    experts = np.where(mask[..., None], choices_of(ranking, k), -1)
    slots = np.asarray(slots_of(experts, capacity, priority if by_priority else None))
    for g in range(G):
        want = reference.fill(experts[g], capacity, priority[g] if by_priority else None)
        np.testing.assert_array_equal(slots[g], want)


@few
@given(rankings, priorities, st.sampled_from([(1, 1), (2, 2), (E, 3)]), st.booleans())
def test_a_choice_is_dropped_only_by_choices_of_higher_priority(ranking, priority, size, by_priority):
    k, capacity = size
    experts = choices_of(ranking, k)
    priority = priority if by_priority else np.zeros_like(priority)
    slots = np.asarray(slots_of(experts, capacity, priority))
    for g, t, choice in zip(*np.nonzero(slots < 0), strict=True):
        rivals = np.argwhere((experts[g] == experts[g, t, choice]) & (slots[g] >= 0))
        assert len(rivals) == capacity
        mine = (choice, -priority[g, t], t)
        assert all((rival_choice, -priority[g, rival], rival) < mine for rival, rival_choice in rivals)
