"""Metrics of routing, worked by hand for the three kinds of routing."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax import metrics
from moejax.routing import assign, dense_routing, soft_routing, top_k_routing

# Rows are tokens, columns experts; two groups of two tokens.
PROBS = [[[0.5, 0.3, 0.2], [0.6, 0.1, 0.3]], [[0.7, 0.2, 0.1], [0.2, 0.2, 0.6]]]
LOGITS = np.log(np.float32(PROBS))

load, dropped, gate_entropy = map(jax.jit, (metrics.load, metrics.dropped, metrics.gate_entropy))


@jax.jit(static_argnames=("k", "capacity"))
def sparse(k, capacity=None):
    routing = top_k_routing(jnp.asarray(LOGITS), k)
    return routing if capacity is None else assign(routing, capacity)


def dense(logits=LOGITS):
    return jax.jit(dense_routing)(np.float32(logits))


def soft(weights):
    """A routing of one token, whose combine is `weights` [e, c], normalised."""
    return jax.jit(soft_routing)(np.log(np.float32([[weights]])))


def entropy(*probs):
    return -sum(p * math.log(p) for p in probs)


def test_load_of_a_sparse_routing_counts_choices_dropped_or_not():
    # k = 1: experts 0, 0, 0, 2. k = 2: {0, 1}, {0, 2}, {0, 1} and {2, 0}, the tie going to the lower index.
    np.testing.assert_allclose(load(sparse(1)), [3 / 4, 0, 1 / 4])
    np.testing.assert_allclose(load(sparse(2)), [4 / 8, 2 / 8, 2 / 8])
    np.testing.assert_allclose(load(sparse(1, 1)), [3 / 4, 0, 1 / 4])


def test_load_of_a_dense_routing_is_the_mean_gate():
    np.testing.assert_allclose(load(dense()), [2.0 / 4, 0.8 / 4, 1.2 / 4], rtol=1e-6)


def test_load_of_a_soft_routing_is_the_mean_gate():
    # One token, experts of two slots: weights 1 and 2 of 10, and 3 and 4 of 10.
    routing = soft([[1, 2], [3, 4]])
    np.testing.assert_allclose(load(routing), [0.3, 0.7], rtol=1e-6)


def test_dropped_is_the_share_of_choices_without_a_slot():
    # One slot an expert. k = 1: in group 0 the second token finds expert 0 taken, so 1 of 4.
    # k = 2: there it is 1 of 4 choices; in group 1 the tokens swap experts 0, 1 and 2, 0: token 1's 0 is taken.
    np.testing.assert_allclose(dropped(sparse(1, 1)), 1 / 4)
    np.testing.assert_allclose(dropped(sparse(2, 1)), 2 / 8)
    np.testing.assert_allclose(dropped(sparse(2, 2)), 0)


def test_dropped_is_0_where_nothing_can_be_dropped():
    for routing in (dense(), soft([[1, 2], [3, 4]]), sparse(2)):
        assert dropped(routing) == 0


@pytest.mark.parametrize("k", [1, 2])
def test_entropy_of_a_sparse_routing_is_of_the_probabilities_before_the_choice(k):
    want = (entropy(0.5, 0.3, 0.2) + entropy(0.6, 0.1, 0.3) + entropy(0.7, 0.2, 0.1) + entropy(0.2, 0.2, 0.6)) / 4
    np.testing.assert_allclose(gate_entropy(sparse(k)), want, rtol=1e-6)
    np.testing.assert_allclose(gate_entropy(dense()), want, rtol=1e-6)


def test_entropy_of_a_soft_routing_is_over_experts_not_slots():
    routing = soft([[1, 2], [3, 4]])
    np.testing.assert_allclose(gate_entropy(routing), entropy(0.3, 0.7), rtol=1e-6)


def test_entropy_is_0_when_decided_and_ln_e_when_undecided():
    assert gate_entropy(dense([[[0, -1000, -1000]]])) == 0
    np.testing.assert_allclose(gate_entropy(dense(np.zeros((1, 2, 5)))), math.log(5), rtol=1e-6)
