"""Metrics of routing, worked by hand for the four kinds of routing, with and without padding."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from reference import chosen, log
from sklearn.metrics import completeness_score, normalized_mutual_info_score

from moejax import losses, metrics
from moejax.inputs import ungroup
from moejax.routing import (
    TopKRouting,
    assign,
    dense_routing,
    expert_choice,
    mask_tokens,
    soft_routing,
    softmax_top_k,
)

few = settings(max_examples=25)
# Rows are tokens, columns experts; two groups of two tokens.
PROBS = [[[0.5, 0.3, 0.2], [0.6, 0.1, 0.3]], [[0.7, 0.2, 0.1], [0.2, 0.2, 0.6]]]
LOGITS = np.log(np.float32(PROBS))
# The second group's first token is padding.
MASK = jnp.array([[True, True], [False, True]])

load = jax.jit(metrics.load, static_argnames="after_capacity")
dropped, gate_entropy, confidence = map(jax.jit, (metrics.dropped, metrics.gate_entropy, metrics.confidence))
dispatch_entropy, label_information = map(jax.jit, (metrics.dispatch_entropy, metrics.label_information))
uncertainty_coefficient = jax.jit(metrics.uncertainty_coefficient)


@jax.jit(static_argnames=("k", "capacity"))
def sparse(k, capacity=None, mask=None):
    routing = mask_tokens(softmax_top_k(jnp.asarray(LOGITS), k), mask)
    return routing if capacity is None else assign(routing, capacity)


@jax.jit
def dense(logits=LOGITS, mask=None):
    return dense_routing(jnp.asarray(logits, jnp.float32), 1.0, mask)


def soft(*weights, mask=None):
    """A routing of one group, whose tokens' combine are `weights` [e, c], normalised."""
    return jax.jit(soft_routing)(log([weights]), mask)


def entropy(*probs):
    return -sum(p * math.log(p) for p in probs)


def test_load_of_a_sparse_routing_counts_choices_dropped_or_not():
    # k = 1: experts 0, 0, 0, 2. k = 2: {0, 1}, {0, 2}, {0, 1} and {2, 0}, the tie going to the lower index.
    np.testing.assert_allclose(load(sparse(1)), [3 / 4, 0, 1 / 4])
    np.testing.assert_allclose(load(sparse(2)), [4 / 8, 2 / 8, 2 / 8])
    np.testing.assert_allclose(load(sparse(1, 1)), [3 / 4, 0, 1 / 4])


def test_load_after_capacity_counts_what_was_dispatched():
    # One slot: group 0's second token is dropped by expert 0.
    np.testing.assert_allclose(load(sparse(1, 1), after_capacity=True), [2 / 3, 0, 1 / 3])
    np.testing.assert_allclose(load(sparse(1, 2), after_capacity=True), [3 / 4, 0, 1 / 4])
    np.testing.assert_allclose(load(sparse(1), after_capacity=True), [3 / 4, 0, 1 / 4])


def test_load_leaves_padding_out():
    np.testing.assert_allclose(load(sparse(1, mask=MASK)), [2 / 3, 0, 1 / 3])
    np.testing.assert_allclose(load(sparse(1, 1, mask=MASK), after_capacity=True), [1 / 2, 0, 1 / 2])
    np.testing.assert_allclose(load(dense(mask=MASK)), [1.3 / 3, 0.6 / 3, 1.1 / 3], rtol=1e-6)
    nobody = load(sparse(1, mask=jnp.zeros((2, 2), bool)))
    np.testing.assert_array_equal(nobody, [0, 0, 0])


def test_load_of_expert_choice_is_even_unless_there_is_padding():
    routing = expert_choice(jnp.asarray(LOGITS), 1)
    np.testing.assert_allclose(load(routing), [1 / 3] * 3, rtol=1e-6)
    routing = expert_choice(jnp.asarray(LOGITS), 2, MASK)  # 3 real tokens, each taken by all 3 experts
    np.testing.assert_allclose(load(routing), [1 / 3] * 3, rtol=1e-6)
    np.testing.assert_allclose(load(routing, after_capacity=True), [1 / 3] * 3, rtol=1e-6)


def test_load_of_a_dense_routing_is_the_mean_gate():
    np.testing.assert_allclose(load(dense()), [2.0 / 4, 0.8 / 4, 1.2 / 4], rtol=1e-6)


def test_load_of_a_soft_routing_is_the_mean_gate():
    # One token, experts of two slots: weights 1 and 2 of 10, and 3 and 4 of 10. A second one is padding.
    np.testing.assert_allclose(load(soft([[1, 2], [3, 4]])), [0.3, 0.7], rtol=1e-6)
    padded = soft([[1, 2], [3, 4]], [[9, 9], [1, 1]], mask=jnp.array([[True, False]]))
    np.testing.assert_allclose(load(padded), [0.3, 0.7], rtol=1e-6)


def test_experts_per_token_are_those_chosen_before_capacity():
    of = jax.jit(metrics.experts_per_token)
    assert of(sparse(2, 1)) == 2
    assert of(sparse(1, mask=MASK)) == 1
    # Three experts with a slot each for two tokens of a group; with two, for three real tokens in all.
    assert of(expert_choice(jnp.asarray(LOGITS), 1)) == 3 / 2
    assert of(expert_choice(jnp.asarray(LOGITS), 2, MASK)) == 3
    assert of(dense()) == 3
    assert of(soft([[1, 2], [3, 4]])) == 2


SHARES = jnp.array([[0.5, 0.25, 0.25, 0.0], [0.25, 0.25, 0.25, 0.25], [1.0, 0, 0, 0], [0.48, 0.48, 0.02, 0.02]])


def test_relative_load_is_in_equal_shares():
    np.testing.assert_allclose(metrics.relative_load(SHARES[:2]), [[2, 1, 1, 0], [1, 1, 1, 1]])


def test_max_violation_is_how_far_the_largest_load_is_above_the_mean():
    np.testing.assert_allclose(metrics.max_violation(SHARES), [1, 0, 3, 0.92], rtol=1e-6)


def test_dead_experts_have_less_than_a_tenth_of_an_equal_share():
    # .02 · 4 = .08
    np.testing.assert_array_equal(metrics.dead_experts(SHARES), [1, 0, 3, 2])
    np.testing.assert_array_equal(metrics.dead_experts(SHARES, 0.05), [1, 0, 3, 0])


def test_diversity_is_the_share_of_experts_in_use():
    # exp of (½ ln 2 + 2 · ¼ ln 4) = 2^1.5, of 4
    want = [2**1.5 / 4, 1, 1 / 4, math.exp(2 * entropy(0.48) + 2 * entropy(0.02)) / 4]
    np.testing.assert_allclose(metrics.diversity(SHARES), want, rtol=1e-6)


@pytest.mark.parametrize("name", ["relative_load", "max_violation", "dead_experts", "diversity"])
def test_metrics_of_a_load_take_a_routing_too(name):
    metric = getattr(metrics, name)
    for routing in (sparse(1), dense(), soft([[1, 2], [3, 4]]), expert_choice(jnp.asarray(LOGITS), 1)):
        np.testing.assert_array_equal(metric(routing), metric(metrics.load(routing)))


def test_dropped_is_the_share_of_choices_without_a_slot():
    # One slot an expert. k = 1: in group 0 the second token finds expert 0 taken, so 1 of 4.
    # k = 2: there it is 1 of 4 choices; in group 1 the tokens swap experts 0, 1 and 2, 0: token 1's 0 is taken.
    np.testing.assert_allclose(dropped(sparse(1, 1)), 1 / 4)
    np.testing.assert_allclose(dropped(sparse(2, 1)), 2 / 8)
    np.testing.assert_allclose(dropped(sparse(2, 2)), 0)


def test_padding_is_not_dropped():
    # Group 1's one real token finds room everywhere; group 0 as before.
    np.testing.assert_allclose(dropped(sparse(1, 1, mask=MASK)), 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(dropped(sparse(2, 1, mask=MASK)), 1 / 6, rtol=1e-6)
    assert dropped(sparse(1, 1, mask=jnp.zeros((2, 2), bool))) == 0


def test_dropped_by_expert_choice_are_the_tokens_that_nobody_took():
    # Group 0: all experts' best are token 1 (.6), 0 (.3) and 1 (.3). Group 1: 0 (.7), 0 (.2, the earlier), 1 (.6).
    np.testing.assert_allclose(dropped(expert_choice(jnp.asarray(LOGITS), 1)), 0)
    # All three experts of the first group take token 0: 1 of 4 is left.
    logits = log([[[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]], PROBS[1]])
    np.testing.assert_allclose(dropped(expert_choice(logits, 1)), 1 / 4)
    np.testing.assert_allclose(dropped(expert_choice(logits, 1, MASK)), 1 / 3, rtol=1e-6)


def test_dropped_is_0_where_nothing_can_be_dropped():
    for routing in (dense(), soft([[1, 2], [3, 4]]), sparse(2)):
        assert dropped(routing) == 0


@pytest.mark.parametrize("k", [1, 2])
def test_entropy_of_a_sparse_routing_is_of_the_probabilities_before_the_choice(k):
    each = [entropy(*token) for group in PROBS for token in group]
    np.testing.assert_allclose(gate_entropy(sparse(k)), sum(each) / 4, rtol=1e-6)
    np.testing.assert_allclose(gate_entropy(dense()), sum(each) / 4, rtol=1e-6)
    for routing in (sparse(k, mask=MASK), dense(mask=MASK)):
        np.testing.assert_allclose(gate_entropy(routing), (each[0] + each[1] + each[3]) / 3, rtol=1e-6)


def test_entropy_of_a_soft_routing_is_over_experts_not_slots():
    routing = soft([[1, 2], [3, 4]])
    np.testing.assert_allclose(gate_entropy(routing), entropy(0.3, 0.7), rtol=1e-6)


def test_entropy_is_0_when_decided_and_ln_e_when_undecided():
    assert gate_entropy(dense(np.float32([[[0, -1000, -1000]]]))) == 0
    np.testing.assert_allclose(gate_entropy(dense(np.zeros((1, 2, 5), np.float32))), math.log(5), rtol=1e-6)


def test_confidence_is_the_mean_highest_probability():
    np.testing.assert_allclose(confidence(sparse(2)), (0.5 + 0.6 + 0.7 + 0.6) / 4, rtol=1e-6)
    np.testing.assert_allclose(confidence(dense(mask=MASK)), (0.5 + 0.6 + 0.6) / 3, rtol=1e-6)
    np.testing.assert_allclose(confidence(soft([[1, 2], [3, 4]])), 0.7, rtol=1e-6)


# Labels and experts

# Three examples of label 0, two of label 1; two experts.
GATES = jnp.array([[1.0, 0], [1, 0], [0.5, 0.5], [0, 1], [0.25, 0.75]])
LABELS = jnp.array([0, 0, 0, 1, 1])


def test_label_counts_add_up_the_gates_of_each_label():
    np.testing.assert_allclose(metrics.label_counts(GATES, LABELS, 3), [[2.5, 0.5], [0.25, 1.75], [0, 0]])


def test_label_counts_of_a_routing_are_those_of_its_tokens():
    # k = 1, experts 0, 0 | 0, 2: labels of tokens, and of whole groups.
    for labels, want in (([[1, 0], [0, 0]], [[2, 0, 1], [1, 0, 0]]), ([[1], [0]], [[1, 0, 1], [2, 0, 0]])):
        counts = metrics.label_counts(sparse(1)._replace(weights=jnp.ones((2, 2, 1))), jnp.array(labels), 2)
        np.testing.assert_allclose(counts, want)


def test_padding_without_gates_counts_for_no_label():
    routing = mask_tokens(chosen([[[0], [1], [1]]], 2), jnp.array([[True, True, False]]))
    counts = metrics.label_counts(routing.gates[0], jnp.array([0, 1, 1]), 2)
    np.testing.assert_allclose(counts, [[1, 0], [0, 1]])


def test_dispatch_entropy_is_the_entropy_of_labels_within_an_expert_by_its_share():
    # Expert 0: 3 and 1 of 4; expert 1: 2 and 2 of 4; expert 2 has none. Shares 4/8, 4/8, 0.
    counts = jnp.array([[3.0, 2, 0], [1, 2, 0]])
    np.testing.assert_allclose(dispatch_entropy(counts), (entropy(3 / 4, 1 / 4) + math.log(2)) / 2, rtol=1e-6)


def test_dispatch_entropy_is_0_for_one_label_an_expert_and_ln_y_for_no_order_at_all():
    np.testing.assert_allclose(dispatch_entropy(5 * jnp.eye(3)), 0, atol=1e-6)
    np.testing.assert_allclose(dispatch_entropy(jnp.ones((4, 7))), math.log(4), rtol=1e-6)


@few
@given(st.integers(0, 1000))
def test_dispatch_entropy_equals_the_papers_formula(seed):
    # H = Σ_m (n_m/n) · [-Σ_k (n_km/n_m) ln(n_km/n_m)]
    counts = np.random.default_rng(seed).integers(0, 4, size=(4, 8)).astype(float)
    counts[0, 0] += 1
    want = 0.0
    for expert in counts.T:
        if expert.sum():
            want += expert.sum() / counts.sum() * entropy(*[n / expert.sum() for n in expert if n])
    np.testing.assert_allclose(dispatch_entropy(counts.astype(np.float32)), want, rtol=1e-4, atol=1e-6)


@few
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.5, 1.0]))
def test_label_information_equals_scikit_learns_score(seed, agreement):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 60)
    experts = np.where(rng.random(60) < agreement, labels, rng.integers(0, 5, 60))
    counts = metrics.label_counts(jnp.asarray(np.eye(5, dtype=np.float32)[experts]), jnp.asarray(labels), 4)
    want = normalized_mutual_info_score(labels, experts, average_method="arithmetic")
    np.testing.assert_allclose(label_information(counts), want, rtol=1e-3, atol=1e-5)


def test_label_information_is_1_when_each_tells_the_other_and_0_when_neither_does():
    np.testing.assert_allclose(label_information(5 * jnp.eye(3)), 1, rtol=1e-5)
    np.testing.assert_allclose(label_information(jnp.ones((3, 4))), 0, atol=1e-5)
    np.testing.assert_allclose(label_information(jnp.array([[7.0]])), 0)


def test_uncertainty_coefficient_by_hand():
    # Positions 0 and 1 have an expert of their own, position 2 either of them: H(expert) = ln 2, I = 2/3 · ln 2.
    counts = jnp.array([[2.0, 0], [0, 2], [1, 1]])
    np.testing.assert_allclose(uncertainty_coefficient(counts), 2 / 3, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 2])
def test_uncertainty_coefficient_is_1_where_equal_labels_get_equal_experts(k):
    # 12 positions, each with its own k of 4 experts: however many choices, the position tells all that is decided.
    experts = np.array([[p % 4, (p // 4 + 1 + p) % 4][:k] for p in range(12)])
    shares = np.eye(4, dtype=np.float32)[experts].mean(1)
    np.testing.assert_allclose(uncertainty_coefficient(shares, np.log(k)), 1, rtol=1e-5)
    assert k == 1 or uncertainty_coefficient(shares) < 0.6


def test_uncertainty_coefficient_is_0_where_the_label_says_nothing_or_nothing_is_decided():
    np.testing.assert_allclose(uncertainty_coefficient(jnp.ones((3, 4))), 0, atol=1e-5)
    assert uncertainty_coefficient(jnp.array([[3.0, 0], [2, 0]])) == 0  # one expert for all
    assert uncertainty_coefficient(jnp.ones((3, 4)), math.log(4)) == 0  # all experts alike for each token
    assert uncertainty_coefficient(jnp.zeros((3, 4))) == 0


@few
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.5, 1.0]))
def test_uncertainty_coefficient_of_one_choice_equals_scikit_learns_completeness(seed, agreement):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, 60)
    experts = np.where(rng.random(60) < agreement, labels % 5, rng.integers(0, 5, 60))
    counts = metrics.label_counts(jnp.asarray(np.eye(5, dtype=np.float32)[experts]), jnp.asarray(labels), 6)
    want = completeness_score(labels, experts)
    np.testing.assert_allclose(uncertainty_coefficient(counts), want, rtol=1e-3, atol=1e-5)


def test_token_shares_sum_to_1_whatever_the_gates_and_to_0_for_padding():
    gates = jnp.array([[0.2, 0.6], [-1.0, 3.0], [0.0, 0.0]])
    np.testing.assert_allclose(metrics.token_shares(gates), [[0.25, 0.75], [0.25, 0.75], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize("make", [sparse, dense])
def test_a_stack_of_routings_is_refused_and_mapped_over(make):
    one = make(2) if make is sparse else make()
    stack = jax.tree.map(lambda a: jnp.stack([a, a]), one)
    functions = [metrics.load, metrics.dropped, metrics.gate_entropy, metrics.max_violation, metrics.experts_per_token]
    functions += [losses.entropy_loss, losses.importance_loss, losses.usage_loss, losses.auxiliary_loss]
    for function in functions:
        with pytest.raises(
            TypeError, match=r"is of one layer's routing, but the logits have the shape \(2, 2, 2, 3\), of"
        ):
            function(stack)
        np.testing.assert_allclose(jax.vmap(function)(stack)[1], function(one), rtol=1e-6)


def test_choices_are_counted_right_whatever_the_logits_type():
    experts = jnp.arange(900)[None, :, None] % 3
    probs = jnp.full((1, 900, 3), 1 / 3, jnp.bfloat16)
    routing = TopKRouting(probs, probs, experts.at[0, 0].set(2), jnp.ones((1, 900, 1), jnp.bfloat16))
    np.testing.assert_allclose(load(routing), [299 / 900, 300 / 900, 301 / 900], rtol=1e-6)


def test_label_counts_and_ungroup_on_an_explicit_mesh():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:2])
    labels, gates = jnp.array([[0, 1], [1, 1]]), dense().gates
    want = metrics.label_counts(gates, labels, 2)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(gates, NamedSharding(mesh, P("data")))
        np.testing.assert_allclose(metrics.label_counts(sharded, labels, 2), want, rtol=1e-6)
        np.testing.assert_allclose(ungroup(sharded, (3,)), gates.reshape(4, 3)[:3])
