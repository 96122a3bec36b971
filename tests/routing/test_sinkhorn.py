"""Sinkhorn: a plan of balanced rows and columns, against the textbook's loop; its choice; padding has no part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from moejax import routing

few = settings(max_examples=25)
seeds = st.integers(0, 1000)
G, T, E = 2, 7, 3
sinkhorn = jax.jit(routing.sinkhorn, static_argnames=("tolerance", "max_iterations"))
sinkhorn_top_k = jax.jit(routing.sinkhorn_top_k, static_argnums=1, static_argnames="balance")


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def plan(*args, **options):
    return np.exp(np.asarray(sinkhorn(*args, **options), np.float64))


def test_a_plan_of_two_tokens_and_two_experts_by_hand():
    # exp(logits) = [[4, 1], [1, 1]]. A plan [[a, b], [b, a]] with a + b = 1/2 keeps the cross ratio a²/b² = 4: a = 2 b.
    got = plan(np.log([[[4.0, 1], [1, 1]]]).astype(np.float32))
    np.testing.assert_allclose(got, [[[1 / 3, 1 / 6], [1 / 6, 1 / 3]]], rtol=1e-3)


@few
@given(seeds)
def test_rows_and_columns_are_balanced_to_the_tolerance(seed):
    got = plan(2 * draw(seed, G, T, E))
    np.testing.assert_allclose(got.sum(2) * T, np.ones((G, T)), atol=1.2e-4)  # 1e-4 and float32
    np.testing.assert_allclose(got.sum(1) * E, np.ones((G, E)), rtol=1e-5)  # normalised last


@few
@given(seeds)
def test_the_plan_equals_a_loops(seed):
    logits = draw(seed, G, T, E)
    got = plan(logits, tolerance=1e-6)
    for g in range(G):
        np.testing.assert_allclose(got[g], reference.sinkhorn(logits[g].astype(np.float64)), rtol=1e-4)


def test_it_stops_at_the_limit_of_iterations():
    # After one: rows, then columns, from [[4, 1], [1, 1]]: rows .8 .2 / .5 .5, columns 8/13, 5/13 / 2/7, 5/7, halved.
    got = plan(np.log([[[4.0, 1], [1, 1]]]).astype(np.float32), max_iterations=1)
    np.testing.assert_allclose(got, [[[4 / 13, 1 / 7], [5 / 26, 5 / 14]]], rtol=1e-5)


@few
@given(seeds)
def test_padding_has_no_part_in_the_plan(seed):
    logits, real = draw(seed, G, T, E), T - 3
    mask = np.arange(T) < real
    padded = np.where(mask[:, None], logits, 50).astype(np.float32)
    got = plan(padded, np.tile(mask, (G, 1)))[:, :real]
    np.testing.assert_allclose(got, plan(logits[:, :real]), rtol=1e-3)
    np.testing.assert_allclose(got.sum(2) * real, np.ones((G, real)), atol=1.2e-4)


def test_a_group_of_nothing_but_padding_harms_nobody():
    logits = draw(0, G, T, E)
    mask = np.array([[True] * T, [False] * T])
    got = sinkhorn_top_k(logits, 1, mask)
    assert np.isfinite(got.weights).all()
    np.testing.assert_array_equal(got.experts[0], sinkhorn_top_k(logits[:1], 1).experts[0])


def test_huge_logits_give_a_plan_all_the_same():
    assert np.isfinite(sinkhorn(1e4 * draw(0, G, T, E))).all()


def test_the_plan_spreads_tokens_that_all_prefer_one_expert():
    # Raw logits: all five to expert 0. Balanced: each expert's column is scaled to the same sum, and what remains is by
    # how much a token prefers it: tokens 0 and 1 the most.
    preference = np.array([3, 2.5, 1, 0.9, 0.5, 0.4], np.float32)
    logits = np.stack([preference, np.zeros(6, np.float32)], -1)[None]
    np.testing.assert_array_equal(sinkhorn_top_k(logits, 1, balance=False).experts.ravel(), [0] * 6)
    np.testing.assert_array_equal(sinkhorn_top_k(logits, 1).experts.ravel(), [0, 0, 1, 1, 1, 1])


@pytest.mark.parametrize("balance", [True, False])
@pytest.mark.parametrize("k", [1, 2, E])
def test_the_plan_chooses_and_the_softmax_of_the_logits_weighs(balance, k):
    logits = draw(3, G, T, E)
    got = jax.tree.map(np.asarray, sinkhorn_top_k(logits, k, balance=balance))
    for g in range(G):
        group = logits[g].astype(np.float64)
        scores = reference.sinkhorn(group) if balance else group
        for t in range(T):
            experts = reference.best(scores[t], k)
            np.testing.assert_array_equal(got.experts[g, t], experts)
            np.testing.assert_allclose(got.weights[g, t], reference.softmax(group[t])[experts], rtol=1e-5)
            np.testing.assert_allclose(got.probs[g, t], reference.softmax(group[t]), rtol=1e-5)


def test_the_gradient_goes_through_the_weights_alone():
    # As if the choice had been made by somebody else.
    logits = draw(4, G, T, E)
    experts = np.asarray(sinkhorn_top_k(logits, 1).experts)

    def weights(logits):
        return (routing.sinkhorn_top_k(logits, 1).weights ** 2).sum()

    def given(logits):
        return (jnp.take_along_axis(jax.nn.softmax(logits, axis=-1), experts, axis=-1) ** 2).sum()

    np.testing.assert_allclose(jax.jit(jax.grad(weights))(logits), jax.jit(jax.grad(given))(logits), rtol=1e-5)


def test_a_groups_plan_does_not_depend_on_the_other_groups():
    # The first group is balanced after few iterations; beside the second, which takes all 100, it must stop as soon.
    easy, hard = draw(0, 1, T, E), 8 * draw(1, 1, T, E)
    alone, beside = sinkhorn(easy), sinkhorn(np.concatenate([easy, hard]))
    np.testing.assert_array_equal(beside[0], alone[0])
    np.testing.assert_array_equal(beside[1], sinkhorn(hard)[0])
