"""Guided assignment: labels in runs over the experts, and weights worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moejax.losses import entropy_loss, usage_loss
from moejax.routing import DenseRouting, assigned_experts, guided_weights

weights = jax.jit(guided_weights)


@pytest.mark.parametrize(
    ("labels", "experts", "want"),
    [
        (10, 10, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (10, 3, [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]),
        (4, 6, [0, 1, 2, 3]),
        (5, 1, [0, 0, 0, 0, 0]),
    ],
)
def test_labels_come_in_runs(labels, experts, want):
    np.testing.assert_array_equal(assigned_experts(labels, experts), want)


@given(st.integers(1, 40), st.integers(1, 40))
def test_every_label_has_an_expert_and_no_expert_more_than_one_label_too_many(labels, experts):
    expert = assigned_experts(labels, experts)
    assert expert.shape == (labels,)
    assert (np.diff(expert) >= 0).all()
    counts = np.bincount(expert, minlength=experts)
    assert counts.max() - counts.min() <= 1
    assert (np.diff(counts) <= 0).all()  # the first experts have the more


PROBS = jnp.array([[[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]]])
ASSIGNED = jnp.array([[1, 2]])


def test_guided_weights_by_hand():
    # Masks (.05, .9, .05) and (.05, .05, .9); a quarter learnt, three quarters mask.
    want = [[[0.0875, 0.8, 0.1125], [0.2875, 0.0375, 0.675]]]
    np.testing.assert_allclose(weights(PROBS, ASSIGNED, 0.25), want, rtol=1e-6)
    np.testing.assert_allclose(weights(PROBS, ASSIGNED, 1.0), PROBS, rtol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_guided_weights_sum_to_1(share):
    np.testing.assert_allclose(weights(PROBS, ASSIGNED, share).sum(-1), np.ones((1, 2)), rtol=1e-6)


def test_the_share_of_what_is_learnt_has_a_gradient():
    # d/ds of s · p + (1 - s) · mask is p - mask
    slope = jax.jacobian(lambda s: guided_weights(PROBS, ASSIGNED, s))(jnp.float32(0.5))
    np.testing.assert_allclose(slope, [[[0.15, -0.4, 0.25], [0.95, -0.05, -0.9]]], atol=1e-6)


def test_gates_are_the_guided_weights_and_the_losses_see_the_learnt_probabilities():
    guided = weights(PROBS, ASSIGNED, 0.25)
    free = DenseRouting(jnp.log(PROBS + 1e-9), PROBS)
    led = free._replace(assigned=ASSIGNED, guided=guided)
    np.testing.assert_array_equal(led.gates, guided)
    masked = led._replace(mask=jnp.array([[True, False]]))
    np.testing.assert_array_equal(masked.gates, guided.at[0, 1].set(0))
    for loss in (entropy_loss, usage_loss):
        np.testing.assert_array_equal(loss(led), loss(free))
