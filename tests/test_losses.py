"""Auxiliary losses: worked by hand, and against a loop over tokens."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import choose, softmax

from moejax.losses import load_balance_loss, router_z_loss
from moejax.routing import TopKRouting, top_k_routing

balance, z_loss = jax.jit(load_balance_loss), jax.jit(router_z_loss)


def routed(probs, experts):
    """A routing of one group by its probabilities [t, e] and choices [t, k]."""
    probs, experts = np.float32([probs]), np.array([experts])
    arrays = np.log(probs), probs, experts, np.full(experts.shape, 1 / experts.shape[-1], np.float32)
    return TopKRouting(*map(jnp.asarray, arrays))


@pytest.mark.parametrize("experts", [[[0], [1], [2], [3]], [[0, 1], [1, 2], [2, 3], [3, 0]]])
def test_balance_of_a_uniform_routing_is_1_whatever_k_is(experts):
    np.testing.assert_allclose(balance(routed(np.full((4, 4), 0.25), experts)), 1, rtol=1e-6)


def test_balance_of_a_collapsed_routing_is_the_number_of_experts():
    probs = np.tile([1, 1e-30, 1e-30], (5, 1))
    np.testing.assert_allclose(balance(routed(probs, [[0]] * 5)), 3, rtol=1e-6)


def test_balance_of_two_tokens_by_hand():
    # f = (1, 0, 0), P = (.6, .25, .15): 3 · .6
    probs = [[0.5, 0.3, 0.2], [0.7, 0.2, 0.1]]
    np.testing.assert_allclose(balance(routed(probs, [[0], [0]])), 1.8, rtol=1e-6)
    # k = 2: f = (2, 2, 0) / 4: 3 · (.5 · .6 + .5 · .25)
    np.testing.assert_allclose(balance(routed(probs, [[0, 1], [0, 1]])), 1.275, rtol=1e-6)


def test_balance_counts_dropped_choices_too():
    routing = routed([[0.6, 0.4], [0.6, 0.4]], [[0], [0]])
    np.testing.assert_allclose(balance(routing._replace(slots=jnp.array([[[0], [-1]]]))), balance(routing))


@pytest.mark.parametrize("k", [1, 2, 5])
def test_balance_and_its_gradient_equal_a_loop_over_all_groups(k):
    G, T, E = 3, 4, 5
    logits = np.random.default_rng(k).normal(size=(G, T, E))
    tokens = logits.reshape(-1, E)
    probs, f = [softmax(token) for token in tokens], np.zeros(E)
    for token in tokens:
        for expert in choose(token, k)[0]:
            f[expert] += 1 / (k * G * T)
    # by the softmax's derivative: d(f · p)/dz = p · (f - f · p), since f is constant
    want_gradient = [E / (G * T) * p * (f - f @ p) for p in probs]

    loss = jax.jit(jax.value_and_grad(lambda logits: load_balance_loss(top_k_routing(logits, k))))
    value, gradient = loss(logits.astype(np.float32))
    np.testing.assert_allclose(value, E * f @ np.mean(probs, 0), rtol=1e-5)
    np.testing.assert_allclose(gradient.reshape(-1, E), want_gradient, rtol=1e-4, atol=1e-7)


def test_z_loss_is_the_mean_square_of_logsumexp():
    # logsumexp of (0, 0) is ln 2, of (0, ln 3) ln 4
    logits = np.log([[[1.0, 1.0], [1.0, 3.0]]])
    np.testing.assert_allclose(z_loss(logits), (math.log(2) ** 2 + math.log(4) ** 2) / 2, rtol=1e-6)


def test_z_loss_gradient_and_large_logits_by_hand():
    # logsumexp(100, 100) = 100 + ln 2 = z; the gradient of z² is 2 z · softmax = z for each
    value, gradient = jax.value_and_grad(z_loss)(jnp.full((1, 1, 2), 100.0))
    z = 100 + math.log(2)
    np.testing.assert_allclose(value, z**2, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[[z, z]]], rtol=1e-6)
