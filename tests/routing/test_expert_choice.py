"""Expert choice: each expert's best tokens, against a loop, with padding."""

import jax
import jax.numpy as jnp
import numpy as np
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import log

from moejax import routing

few = settings(max_examples=25)
G, T, E = 2, 6, 3
expert_choice = jax.jit(routing.expert_choice, static_argnums=1, static_argnames="score_function")
coarse_logits = hnp.arrays(np.float32, (G, T, E), elements=st.integers(-2, 2).map(float))
masks = hnp.arrays(bool, (G, T))


@jax.jit(static_argnums=(1, 3))
def tables(logits, capacity, mask=None, score_function="softmax"):
    got = routing.expert_choice(logits, capacity, mask, score_function=score_function)
    return got.tokens, got.weights, got.gates, got.choices, got.dispatched


def test_each_expert_takes_its_two_best_of_three_tokens():
    # Probabilities of expert 0: .6 .5 .1, of expert 1: .4 .5 .9. Token 1 is taken by both.
    got = expert_choice(log([[[0.6, 0.4], [0.5, 0.5], [0.1, 0.9]]]), 2)
    np.testing.assert_array_equal(got.tokens, [[[0, 1], [2, 1]]])
    np.testing.assert_allclose(got.weights, [[[0.6, 0.5], [0.9, 0.5]]], rtol=1e-6)
    np.testing.assert_allclose(got.gates, [[[0.6, 0], [0.5, 0.5], [0, 0.9]]], rtol=1e-6)
    np.testing.assert_array_equal(got.choices, [[[1, 0], [1, 1], [0, 1]]])
    np.testing.assert_array_equal(got.dispatched, got.choices)


def test_by_sigmoid_each_expert_scores_by_itself():
    # Scores of expert 0: .8 .5 .6, of expert 1: .8 .2 .4.
    scores = np.array([[[0.8, 0.8], [0.5, 0.2], [0.6, 0.4]]])
    got = expert_choice(jnp.asarray(np.log(scores / (1 - scores)), jnp.float32), 2, score_function="sigmoid")
    np.testing.assert_array_equal(got.tokens, [[[0, 2], [0, 2]]])
    np.testing.assert_allclose(got.weights, [[[0.8, 0.6], [0.8, 0.4]]], rtol=1e-6)
    np.testing.assert_allclose(got.probs, [[[0.5, 0.5], [5 / 7, 2 / 7], [0.6, 0.4]]], rtol=1e-6)


def test_ties_go_to_the_earlier_token():
    np.testing.assert_array_equal(expert_choice(jnp.zeros((1, 4, 2)), 2).tokens, [[[0, 1], [0, 1]]])


def test_padding_is_never_taken_and_leaves_slots_empty():
    # Token 0 would be expert 0's best.
    logits = log([[[0.6, 0.4], [0.5, 0.5], [0.1, 0.9]]])
    got = expert_choice(logits, 3, jnp.array([[False, True, True]]))
    np.testing.assert_array_equal(got.tokens, [[[1, 2, -1], [2, 1, -1]]])
    np.testing.assert_allclose(got.weights, [[[0.5, 0.1, 0], [0.9, 0.5, 0]]], rtol=1e-6)
    np.testing.assert_allclose(got.gates, [[[0, 0], [0.5, 0.5], [0.1, 0.9]]], rtol=1e-6)
    np.testing.assert_array_equal(got.choices, [[[0, 0], [1, 1], [1, 1]]])


@few
@given(st.integers(0, 1000), masks, st.sampled_from([2, T]), st.booleans(), st.booleans())
def test_expert_choice_equals_a_loop(seed, mask, capacity, padded, sigmoid):
    logits = np.random.default_rng(seed).normal(size=(G, T, E)).astype(np.float32)
    tokens, weights, gates, choices, dispatched = map(
        np.asarray,
        tables(logits, capacity, mask if padded else np.ones_like(mask), "sigmoid" if sigmoid else "softmax"),
    )
    for g in range(G):
        want = reference.expert_choice(logits[g].astype(np.float64), capacity, mask[g] if padded else None, sigmoid)
        np.testing.assert_array_equal(tokens[g], want[0])
        np.testing.assert_allclose(weights[g], want[1], rtol=1e-5)
        dense = np.zeros((T, E))
        for e, c in np.ndindex(E, capacity):
            if want[0][e, c] >= 0:
                dense[want[0][e, c], e] = want[1][e, c]
        np.testing.assert_allclose(gates[g], dense, rtol=1e-5)
        np.testing.assert_array_equal(choices[g], dense > 0)
    np.testing.assert_array_equal(dispatched, choices)


@few
@given(coarse_logits, st.sampled_from([2, T]))
def test_every_expert_is_full_and_takes_no_token_twice(logits, capacity):
    tokens = np.asarray(tables(logits, capacity, np.ones((G, T), bool))[0])
    assert tokens.shape == (G, E, capacity)
    assert all(len(set(taken)) == capacity for taken in tokens.reshape(-1, capacity))
    assert tokens.min() >= 0


def test_the_gradient_of_a_weight_is_that_of_its_probability():
    # p = (.6, .4) of the one token: the derivative of p_0 by the logits is .6 · (.4, -.4), of p_1 its negative.
    gradient = jax.grad(lambda logits: routing.expert_choice(logits, 1).weights[0, 0, 0])(log([[[0.6, 0.4]]]))
    np.testing.assert_allclose(gradient, [[[0.24, -0.24]]], rtol=1e-5)


def test_a_token_without_a_number_spoils_no_others_weight():
    logits = np.random.default_rng(0).normal(size=(1, 5, E)).astype(np.float32)
    logits[0, 1] = np.nan
    gates = np.asarray(tables(logits, 3)[2])
    assert np.isfinite(gates[0, [0, 2, 3, 4]]).all()
