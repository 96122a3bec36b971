"""Dispatch by einsum: masks worked by hand, and the two contractions and their gradients against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import draw

from moejax.dispatch import (
    combine_dense,
    combine_slots,
    default_group_size,
    dispatch_tokens,
    einsum_dispatch,
    sparse_masks,
)
from moejax.routing import ExpertChoiceRouting, TopKRouting, assign, softmax_top_k

G, T, E, C, D = 2, 5, 3, 4, 6


def by_hand():
    """Three tokens, two experts of two slots: token 1 is dropped by expert 1, token 2 by expert 0."""
    return TopKRouting(
        logits=jnp.zeros((1, 3, 2)),
        probs=jnp.full((1, 3, 2), 0.5),
        experts=jnp.array([[[0, 1], [0, 1], [1, 0]]]),
        weights=jnp.array([[[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]]),
        slots=jnp.array([[[0, 1], [1, -1], [0, -1]]]),
    )


@jax.jit(static_argnums=0)
def value_and_gradients(f, mask, x, cotangent):
    y, pull = jax.vjp(f, mask, x)
    return y, *pull(cotangent)


def assert_all_close(got, want):
    # float32 sums of up to G·T terms of size 1: 1e-5 is a hundred roundings
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)


def test_masks_say_which_slot_a_token_sits_in_and_with_what_weight():
    dispatch, combine = sparse_masks(by_hand(), 2)
    np.testing.assert_array_equal(
        dispatch,
        [[
            [[1, 0], [0, 1]],
            [[0, 1], [0, 0]],
            [[0, 0], [1, 0]],
        ]],
    )  # fmt: skip
    np.testing.assert_allclose(
        combine,
        [[
            [[0.9, 0], [0, 0.1]],
            [[0, 0.8], [0, 0]],
            [[0, 0], [0.7, 0]],
        ]],
    )  # fmt: skip
    assert dispatch.dtype == combine.dtype == jnp.float32


def test_masks_of_expert_choice_say_the_same_and_an_empty_slot_holds_nobody():
    # Expert 0 takes tokens 2 and 0, expert 1 takes token 2 and has nobody for its second slot.
    routing = ExpertChoiceRouting(
        logits=jnp.zeros((1, 3, 2)),
        probs=jnp.full((1, 3, 2), 0.5),
        tokens=jnp.array([[[2, 0], [2, -1]]]),
        weights=jnp.array([[[0.9, 0.6], [0.1, 0]]]),
    )
    dispatch, combine = sparse_masks(routing, 2)
    np.testing.assert_array_equal(
        dispatch,
        [[
            [[0, 1], [0, 0]],
            [[0, 0], [0, 0]],
            [[1, 0], [1, 0]],
        ]],
    )  # fmt: skip
    np.testing.assert_allclose(
        combine,
        [[
            [[0, 0.6], [0, 0]],
            [[0, 0], [0, 0]],
            [[0.9, 0], [0.1, 0]],
        ]],
    )  # fmt: skip


def test_each_slot_gets_its_token_and_an_empty_slot_zeros():
    routing = by_hand()._replace(slots=jnp.array([[[0, 1], [1, -1], [-1, -1]]]))
    dispatch, _ = sparse_masks(routing, 2)
    x = jnp.array([[[1.0, 2], [3, 4], [5, 6]]])
    np.testing.assert_array_equal(dispatch_tokens(dispatch, x), [[[[1, 2], [3, 4]]], [[[0, 0], [1, 2]]]])


def test_each_token_gets_the_weighted_sum_of_its_slots_and_nothing_from_nowhere():
    routing = by_hand()._replace(slots=jnp.array([[[0, 1], [1, -1], [-1, -1]]]))
    _, combine = sparse_masks(routing, 2)
    y = jnp.array([[[[10.0, 20], [30, 40]]], [[[50, 60], [70, 80]]]])
    # token 0: 0.9 · (10, 20) + 0.1 · (70, 80); token 1: 0.8 · (30, 40); token 2 sits nowhere
    np.testing.assert_allclose(combine_slots(combine, y), [[[16, 26], [24, 32], [0, 0]]], rtol=1e-6)


def test_the_whole_way_by_hand():
    # Expert 0 doubles and expert 1 negates: token 0 gets .9 · 2 - .1, token 1 .8 · 2, token 2 -.7 times itself.
    factors = jnp.array([2.0, -1]).reshape(2, 1, 1, 1)
    x = jnp.array([[[1.0, 10], [2, 20], [3, 30]]])
    y = einsum_dispatch(lambda slots: factors * slots, x, by_hand(), 2)
    np.testing.assert_allclose(y, [[[1.7, 17], [3.2, 32], [-2.1, -21]]], rtol=1e-6)


def test_dense_combine_weighs_every_experts_answer():
    gates = jnp.array([[[0.25, 0.75], [1.0, 0.0]]])
    y = jnp.array([[[[4.0], [5]]], [[[8], [9]]]])  # e g t d
    np.testing.assert_allclose(combine_dense(gates, y), [[[7.0], [5]]])  # 0.25 · 4 + 0.75 · 8, and 5


def test_dense_combine_is_combine_slots_with_a_slot_for_every_token():
    gates, y = draw(0, G, T, E), draw(1, E, G, T, D)
    everywhere = gates[..., None] * jnp.eye(T)[None, :, None, :]
    np.testing.assert_allclose(combine_dense(gates, y), combine_slots(everywhere, y), rtol=1e-5, atol=1e-6)


def test_dispatch_and_its_gradients_equal_loops():
    mask, x, cotangent = draw(0, G, T, E, C), draw(1, G, T, D), draw(2, E, G, C, D)
    got = value_and_gradients(dispatch_tokens, mask, x, cotangent)
    mask, x, cotangent = (np.asarray(a, np.float64) for a in (mask, x, cotangent))
    want, want_mask, want_x = (np.zeros(a.shape) for a in (cotangent, mask, x))
    for g, t, e, c in np.ndindex(mask.shape):
        want[e, g, c] += mask[g, t, e, c] * x[g, t]
        want_mask[g, t, e, c] = cotangent[e, g, c] @ x[g, t]
        want_x[g, t] += mask[g, t, e, c] * cotangent[e, g, c]
    assert_all_close(got, (want, want_mask, want_x))


def test_combine_and_its_gradients_equal_loops():
    mask, y, cotangent = draw(0, G, T, E, C), draw(1, E, G, C, D), draw(2, G, T, D)
    got = value_and_gradients(combine_slots, mask, y, cotangent)
    mask, y, cotangent = (np.asarray(a, np.float64) for a in (mask, y, cotangent))
    want, want_mask, want_y = (np.zeros(a.shape) for a in (cotangent, mask, y))
    for g, t, e, c in np.ndindex(mask.shape):
        want[g, t] += mask[g, t, e, c] * y[e, g, c]
        want_mask[g, t, e, c] = cotangent[g, t] @ y[e, g, c]
        want_y[e, g, c] += mask[g, t, e, c] * cotangent[g, t]
    assert_all_close(got, (want, want_mask, want_y))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_results_have_the_type_of_the_tokens_not_of_the_masks(dtype):
    mask = jnp.ones((1, 2, 3, 2))
    assert dispatch_tokens(mask, jnp.ones((1, 2, 4), dtype)).dtype == dtype
    assert combine_slots(mask, jnp.ones((3, 1, 2, 4), dtype)).dtype == dtype
    assert combine_dense(mask[..., 0], jnp.ones((3, 1, 2, 4), dtype)).dtype == dtype


def test_a_sparse_dispatch_copies_bfloat16_tokens_bit_by_bit():
    x = draw(3, 1, 3, D).astype(jnp.bfloat16)
    slots = dispatch_tokens(sparse_masks(by_hand(), 2)[0], x)
    np.testing.assert_array_equal(slots[0, 0], x[0, jnp.array([0, 1])])
    np.testing.assert_array_equal(slots[1, 0], x[0, jnp.array([2, 0])])


def test_the_default_group_costs_a_quarter_of_the_experts():
    assert [default_group_size(hidden) for hidden in (256, 6, 1)] == [64, 1, 1]


@jax.jit(static_argnames=("k", "capacity"))
def routing_and_masks(logits, k, capacity):
    routing = assign(softmax_top_k(logits, k), capacity)
    return routing, routing.gates, *sparse_masks(routing, capacity)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.sampled_from([(1, 1), (2, 3), (E, T)]))
def test_masks_agree_with_the_routing_they_come_from(seed, k_and_capacity):
    k, capacity = k_and_capacity
    routing, gates, dispatch, combine = jax.tree.map(np.asarray, routing_and_masks(draw(seed, G, T, E), k, capacity))
    want = np.zeros((G, T, E, capacity))
    for g, t, choice in np.ndindex(routing.slots.shape):
        if routing.slots[g, t, choice] >= 0:
            want[g, t, routing.experts[g, t, choice], routing.slots[g, t, choice]] += 1
    np.testing.assert_array_equal(dispatch, want)
    assert want.sum((2, 3)).max() <= k  # of a token
    assert want.sum(3).max() == 1  # of a token in an expert
    assert want.sum(1).max() == 1  # in a slot
    np.testing.assert_allclose(combine.sum(-1), gates, rtol=1e-6)
