"""Dense and soft routing: softmaxes worked by hand, temperature, padding."""

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
from seldom import slow_but_for

from moejax import routing

few = settings(max_examples=25)
G, T, E, C = 2, 3, 4, 2
dense_routing, soft_routing = map(jax.jit, (routing.dense_routing, routing.soft_routing))
logits_of_slots = hnp.arrays(np.float32, (G, T, E, C), elements=st.integers(-9, 9).map(float))


def test_dense_gates_are_the_softmax():
    got = dense_routing(log([[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]]))
    np.testing.assert_allclose(got.gates, [[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]], rtol=1e-6)


@few
@given(st.integers(0, 1000), st.sampled_from([0.1, 1.0, 7.0]))
def test_dense_routing_equals_a_loop(seed, temperature):
    logits = np.random.default_rng(seed).normal(size=(G, T, E)).astype(np.float32)
    got = jax.tree.map(np.asarray, dense_routing(logits, temperature))
    for g, t in np.ndindex(G, T):
        want = reference.softmax(logits[g, t].astype(np.float64) / temperature)
        np.testing.assert_allclose(got.probs[g, t], want, rtol=1e-5)
    np.testing.assert_array_equal(got.logits, logits)


def test_a_low_temperature_decides_and_a_high_one_averages():
    # Logits ln 4 and 0: 4 : 1 at temperature 1, 16 : 1 at a half, 2 : 1 at two.
    logits = log([[[4.0, 1.0]]])
    for temperature, odds in ((1.0, 4), (0.5, 16), (2.0, 2)):
        want = [[[odds / (odds + 1), 1 / (odds + 1)]]]
        np.testing.assert_allclose(dense_routing(logits, temperature).gates, want, rtol=1e-5)
    np.testing.assert_allclose(dense_routing(logits, 1e-3).gates, [[[1, 0]]], atol=1e-6)
    np.testing.assert_allclose(dense_routing(logits, 1e6).gates, [[[0.5, 0.5]]], atol=1e-5)


def test_the_temperature_has_a_gradient():
    # p = softmax(l/τ) of logits (a, 0): dp/dτ = -p (1 - p) a / τ², here at p = .8, a = ln 4, τ = 1
    slope = jax.grad(lambda t: routing.dense_routing(log([[[4.0, 1.0]]]), t).gates[0, 0, 0])(jnp.float32(1))
    np.testing.assert_allclose(slope, -0.8 * 0.2 * np.log(4), rtol=1e-5)


def test_dense_padding_has_no_gates_but_keeps_its_probabilities():
    got = dense_routing(log([[[0.5, 0.5], [0.9, 0.1]]]), 1.0, jnp.array([[True, False]]))
    np.testing.assert_allclose(got.gates, [[[0.5, 0.5], [0, 0]]], rtol=1e-6)
    np.testing.assert_allclose(got.probs[0, 1], [0.9, 0.1], rtol=1e-6)


@pytest.mark.parametrize(("progress", "temperature"), [(0.0, 4.0), (0.5, 2.0), (1.0, 1.0)])
def test_annealing_is_geometric(progress, temperature):
    np.testing.assert_allclose(routing.anneal(4.0, 1.0, progress), temperature)
    np.testing.assert_allclose(jax.jit(partial(routing.anneal, 4.0, 1.0))(progress), temperature, rtol=1e-6)


@pytest.mark.parametrize("progress", [1 + 2e-7, -1e-9])
def test_progress_may_be_beyond_by_rounding(progress):
    end = 1.0 if progress > 1 else 4.0
    assert routing.anneal(4.0, 1.0, progress) == jax.jit(partial(routing.anneal, 4.0, 1.0))(progress) == end


@pytest.mark.parametrize("progress", [50.0, -0.1])
def test_progress_is_a_share_of_the_training(progress):
    with pytest.raises(ValueError, match=f"progress is {progress}; give the share of the training that is done, from"):
        routing.anneal(4.0, 1.0, progress)
    assert np.isnan(jax.jit(partial(routing.anneal, 4.0, 1.0))(progress))


def test_soft_softmaxes_over_tokens_and_over_slots():
    # Two tokens (rows), two experts of one slot (columns): columns of [[1, 3], [1, 1]] sum to 2 and 4, rows to 4 and 2.
    got = soft_routing(log([[1, 3], [1, 1]])[None, :, :, None])
    np.testing.assert_allclose(got.dispatch[0, :, :, 0], [[1 / 2, 3 / 4], [1 / 2, 1 / 4]], rtol=1e-6)
    np.testing.assert_allclose(got.combine[0, :, :, 0], [[1 / 4, 3 / 4], [1 / 2, 1 / 2]], rtol=1e-6)


def test_soft_gates_add_up_an_experts_slots():
    # One token; expert 0's slots weigh 1 and 2, expert 1's 3 and 4, of 10 in all.
    got = soft_routing(log([[1, 2], [3, 4]])[None, None])
    np.testing.assert_allclose(got.gates, [[[0.3, 0.7]]], rtol=1e-6)
    np.testing.assert_allclose(got.dispatch, np.ones((1, 1, 2, 2)))


@few
@given(logits_of_slots)
def test_soft_slots_and_soft_tokens_are_mixtures_that_sum_to_1(logits):
    got = jax.tree.map(np.asarray, soft_routing(logits))
    np.testing.assert_allclose(got.dispatch.sum(1), np.ones((G, E, C)), rtol=1e-5)
    np.testing.assert_allclose(got.combine.sum((2, 3)), np.ones((G, T)), rtol=1e-5)


@few
@given(logits_of_slots)
def test_soft_routing_equals_a_loop(logits):
    got, exact = jax.tree.map(np.asarray, soft_routing(logits)), logits.astype(np.float64)
    for g, e, c in np.ndindex(G, E, C):
        np.testing.assert_allclose(got.dispatch[g, :, e, c], reference.softmax(exact[g, :, e, c]), rtol=1e-5)
    for g, t in np.ndindex(G, T):
        np.testing.assert_allclose(got.combine[g, t], reference.softmax(exact[g, t]), rtol=1e-5)


def test_soft_padding_is_in_no_mixture_and_gets_none():
    # Without token 0 the columns of [[9, 9], [1, 3], [1, 1]] sum to 2 and 4.
    got = soft_routing(log([[9, 9], [1, 3], [1, 1]])[None, :, :, None], jnp.array([[False, True, True]]))
    np.testing.assert_allclose(got.dispatch[0, :, :, 0], [[0, 0], [1 / 2, 3 / 4], [1 / 2, 1 / 4]], rtol=1e-6)
    np.testing.assert_allclose(got.combine[0, :, :, 0], [[0, 0], [1 / 4, 3 / 4], [1 / 2, 1 / 2]], rtol=1e-6)
    np.testing.assert_allclose(got.gates[0, 0], [0, 0])


def test_a_soft_group_of_nothing_but_padding_has_empty_slots_and_finite_gradients():
    mask = jnp.zeros((1, T), bool)

    def loss(logits):
        got = routing.soft_routing(logits, mask)
        return (got.dispatch**2 + got.combine**2).sum(), got

    gradient, got = jax.jit(jax.grad(loss, has_aux=True))(jnp.ones((1, T, E, C)))
    for values in (gradient, got.dispatch, got.combine):
        np.testing.assert_array_equal(values, np.zeros((1, T, E, C)))


@pytest.mark.parametrize("factor", slow_but_for([1e4, -1e4], 1e4))
def test_huge_logits_neither_overflow_nor_spoil_the_gradient(factor):
    logits = factor * jnp.array([[[1.0, 0.0, 0.5]]])

    def first(logits):
        return soft_routing(logits[..., None]).combine[0, 0, 0, 0] + dense_routing(logits).gates[0, 0, 0]

    value, gradient = jax.jit(jax.value_and_grad(first))(logits)
    np.testing.assert_allclose(value, 2.0 if factor > 0 else 0.0, atol=1e-6)
    assert np.isfinite(gradient).all()
