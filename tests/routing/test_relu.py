"""ReLU routing: any number of experts a token, against a loop; its penalty by hand; the coefficient that finds k."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moejax import losses, metrics, routing

few = settings(max_examples=25)
G, T, E, K = 2, 3, 5, 2
coarse_logits = hnp.arrays(np.float32, (G, T, E), elements=st.integers(-3, 3).map(float))
masks = hnp.arrays(bool, (G, T))

# Two experts, three and none, of four.
LOGITS = jnp.array([[[0.5, -1.0, 1.5, 0.0], [1.0, 2.0, -0.5, 1.0], [-1.0, -2.0, 0.0, -0.5]]])
MASK = jnp.array([[True, False, True]])


@jax.jit
def relu(logits, mask=None, weight=0.0):
    """A routing, its gates and choices, and the penalty that it asks for."""
    got = routing.mask_tokens(routing.relu_routing(logits, weight), mask)
    return got, got.gates, got.choices, losses.sparsity_loss(got)


def test_the_experts_are_those_above_0_the_highest_first():
    got, gates, choices, _ = relu(LOGITS)
    np.testing.assert_array_equal(got.experts, [[[2, 0, -1, -1], [1, 0, 3, -1], [-1, -1, -1, -1]]])
    np.testing.assert_array_equal(got.weights, [[[1.5, 0.5, 0, 0], [2, 1, 1, 0], [0, 0, 0, 0]]])
    np.testing.assert_array_equal(gates, [[[0.5, 0, 1.5, 0], [1, 2, 0, 1], [0, 0, 0, 0]]])
    np.testing.assert_array_equal(choices, [[[1, 0, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0]]])
    # The distribution: the gates as shares, and even where there are none.
    np.testing.assert_allclose(got.probs, [[[0.25, 0, 0.75, 0], [0.25, 0.5, 0, 0.25], [0.25] * 4]], rtol=1e-6)


def test_given_experts_are_weighed_by_it_also_those_of_weight_0():
    given = jnp.array([[[1, 2, -1, -1], [0, 1, 3, -1], [-1, -1, -1, 3]]])
    got = jax.jit(routing.relu_routing)(LOGITS, given=given)
    np.testing.assert_array_equal(got.experts, given)
    np.testing.assert_array_equal(got.weights, [[[0, 1.5, 0, 0], [1, 2, 1, 0], [0, 0, 0, 0]]])


def test_losses_and_metrics_count_the_experts_that_there_are():
    @jax.jit
    def of_one_slot(logits):
        got = routing.assign(routing.relu_routing(logits), 1)
        functions = metrics.experts_per_token, metrics.load, metrics.dropped, losses.load_balance_loss
        return got.slots, *(function(got) for function in functions)

    slots, number, load, dropped, balance = of_one_slot(LOGITS)
    # Expert 0 has room for one of its two tokens: first choices come first, and it is nobody's.
    np.testing.assert_array_equal(slots, [[[0, 0, -1, -1], [0, -1, 0, -1], [-1, -1, -1, -1]]])
    np.testing.assert_allclose(number, 5 / 3, rtol=1e-6)
    np.testing.assert_allclose(load, [0.4, 0.2, 0.2, 0.2], rtol=1e-6)
    np.testing.assert_allclose(dropped, 1 / 5, rtol=1e-6)
    # E · Σ f · P, with P the mean distribution: (.75, .75, 1, .5) / 3.
    np.testing.assert_allclose(balance, 4 * (0.4 * 0.75 + 0.2 * (0.75 + 1 + 0.5)) / 3, rtol=1e-6)


def test_the_penalty_is_weighted_activity_times_mean_weight_also_of_what_is_dropped():
    # Shares of tokens that chose the experts: (2, 1, 1, 1) / 3; mean weights: (1.5, 2, 1.5, 1) / 3.
    want = (2 * 1.5 + 2 + 1.5 + 1) / 9
    got, *_, penalty = relu(LOGITS, None, 0.5)
    np.testing.assert_allclose(penalty, 0.5 * want, rtol=1e-6)
    np.testing.assert_allclose(losses.sparsity_loss(routing.assign(got, 1)), 0.5 * want, rtol=1e-6)
    # Of the first and the last token alone: (1, 0, 1, 0) / 2 and (.5, 0, 1.5, 0) / 2.
    np.testing.assert_allclose(relu(LOGITS, MASK, 0.5)[-1], 0.5 * 2 / 4, rtol=1e-6)
    # It needs no weight from whom it is for, and there is none of another router.
    auxiliary = jax.jit(partial(losses.auxiliary_loss, balance=0.0, z=0.0))
    np.testing.assert_allclose(auxiliary([got, got]), want, rtol=1e-6)
    assert auxiliary(routing.softmax_top_k(LOGITS, 2)) == 0


def test_the_penalty_is_that_of_the_authors_code():
    """Switch's loss of sums over tokens, with ReLU in place of softmax: coefficient · E / (T² k) · Σ p_e n_e."""
    logits = np.random.default_rng(0).normal(size=(1, 40, E)).astype(np.float32)
    gates = np.maximum(logits[0], 0).astype(np.float64)
    want = 0.3 * E / (40**2 * K) * (gates.sum(0) * (gates > 0).sum(0)).sum()
    np.testing.assert_allclose(relu(logits, None, 0.3 * E / K)[-1], want, rtol=1e-5)


@few
@given(coarse_logits, masks, st.booleans())
def test_relu_routing_equals_a_loop(logits, mask, padded):
    mask = mask if padded else np.ones_like(mask)
    got, gates, choices, penalty = jax.tree.map(np.asarray, relu(logits, mask, 1.0))
    active, total, real = np.zeros(E), np.zeros(E), max(mask.sum(), 1)
    for g, t in np.ndindex(G, T):
        experts, weights, probs = reference.choose_by_relu(logits[g, t].astype(np.float64))
        np.testing.assert_allclose(got.probs[g, t], probs, rtol=1e-6)
        if not mask[g, t]:
            experts, weights = [], []
        missing = [-1] * (E - len(experts))
        np.testing.assert_array_equal(got.experts[g, t], [*experts, *missing])
        np.testing.assert_allclose(got.weights[g, t], [*weights, *np.zeros(len(missing))])
        dense = np.zeros(E)
        dense[experts] = weights
        np.testing.assert_allclose(gates[g, t], dense)
        np.testing.assert_array_equal(choices[g, t], dense > 0)
        active, total = active + (dense > 0), total + dense
    np.testing.assert_allclose(penalty, (active / real) @ (total / real), rtol=1e-5)


def test_the_output_is_continuous_where_an_expert_comes_and_goes():
    """Its weight there is 0, unlike that of a k-th best expert."""
    before, after = (relu(LOGITS.at[0, 0, 1].set(x))[1] for x in (-1e-6, 1e-6))
    np.testing.assert_allclose(before, after, atol=2e-6)


def test_gradients_are_those_of_relu_and_finite_where_a_token_has_no_expert():
    cotangent = jnp.asarray(np.random.default_rng(0).normal(size=LOGITS.shape), jnp.float32)
    gradient = jax.jit(jax.grad(lambda logits: (relu(logits)[1] * cotangent).sum()))(LOGITS)
    np.testing.assert_allclose(gradient, jnp.where(LOGITS > 0, cotangent, 0))
    # The penalty's: the share of tokens that chose the expert over the number of tokens, where there is a weight.
    gradient = jax.jit(jax.grad(lambda logits: relu(logits, None, 1.0)[-1]))(LOGITS)
    np.testing.assert_allclose(gradient, np.where(LOGITS > 0, [2, 1, 1, 1], 0) / 9, rtol=1e-6)

    def all_losses(logits):
        got = relu(logits, None, 1.0)[0]
        terms = losses.importance_loss, losses.entropy_loss, losses.usage_loss, losses.load_balance_loss
        return sum(loss(got) for loss in (*terms, losses.router_z_loss, losses.sparsity_loss))

    for logits in (LOGITS, -jnp.ones_like(LOGITS), jnp.zeros_like(LOGITS)):
        assert np.isfinite(jax.jit(jax.grad(all_losses))(logits)).all()


def test_a_token_without_a_number_has_none_and_spoils_no_other():
    got, gates, *_ = relu(LOGITS.at[0, 0, 1].set(jnp.nan))
    assert np.isnan(got.probs[0, 0]).all()
    assert np.isnan(gates[0, 0, 1])
    np.testing.assert_array_equal(gates[0, 1:], relu(LOGITS)[1][0, 1:])


def test_the_choice_is_the_same_under_vmap():
    logits = np.random.default_rng(1).normal(size=(4, G, T, E)).astype(np.float32)
    together = jax.jit(jax.vmap(routing.relu_routing))(logits)
    for i, one in enumerate(logits):
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda a, i=i: a[i], together), relu(one)[0])


# The coefficient

update = jax.jit(routing.update_coefficient, static_argnums=(2, 3))


def test_the_coefficient_moves_by_its_factor_towards_k_experts_a_token():
    more, exact, fewer = (update(jnp.float32(0.5), jnp.float32(n), 2, 1.25) for n in (2.5, 2, 1.5))
    np.testing.assert_allclose([more, exact, fewer], [0.625, 0.5, 0.4], rtol=1e-6)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_the_coefficient_stays_at_exactly_k_however_the_mean_is_rounded(k):
    for n in (k * (1 + 2.4e-7), k * (1 - 2.4e-7)):
        assert update(jnp.float32(0.5), jnp.float32(n), k, 1.25) == 0.5


def test_the_coefficient_stays_where_it_can_come_back_from():
    assert update(jnp.float32(1e4), jnp.float32(3), 2, 1.2) == np.float32(1e4)
    assert update(jnp.float32(1e-16), jnp.float32(1), 2, 1.2) == np.float32(1e-16)


def test_the_penalty_brings_a_router_that_wants_all_experts_to_k_and_keeps_their_load_even():
    """A task that pays for every active expert, by gradient descent on the logits' kernel and bias alone."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 512, 6)), jnp.float32)
    kernel = jnp.asarray(np.random.default_rng(1).normal(size=(6, 8)) * 0.3, jnp.float32)
    bias = jnp.linspace(-0.2, 0.4, 8)

    def step(carry, _):
        (kernel, bias), coefficient = carry

        def loss(kernel, bias):
            got = routing.relu_routing(x @ kernel + bias[None, None], coefficient * 8 / 2)
            return losses.sparsity_loss(got) - jnp.log1p(got.gates).mean((0, 1)).sum(), got

        (_, got), gradient = jax.value_and_grad(loss, (0, 1), has_aux=True)(kernel, bias)
        learnt = jax.tree.map(lambda p, g: p - 0.05 * g, (kernel, bias), gradient)
        n = metrics.experts_per_token(got)
        return (learnt, routing.update_coefficient(coefficient, n, 2, 1.2)), (n, metrics.load(got), coefficient)

    _, (n, load, coefficient) = jax.jit(lambda c: jax.lax.scan(step, c, length=400))(
        ((kernel, bias), jnp.float32(1e-8))
    )
    assert n[0] > 4
    np.testing.assert_allclose(n[-100:].mean(), 2, rtol=0.05)
    assert np.abs(n[-100:] - 2).max() < 0.6
    assert metrics.max_violation(load[-1]) < 0.5
    assert 1e-3 < coefficient[-1] < 10
