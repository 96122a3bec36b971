"""Auxiliary losses: worked by hand with and without padding and against loops."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import choose, log, softmax, squared_variation

from moejax import losses
from moejax.routing import TopKRouting, dense_routing, expert_choice, mask_tokens, soft_routing, softmax_top_k

names = ("load_balance_loss", "importance_loss", "load_loss", "router_z_loss", "entropy_loss", "usage_loss")
balance, importance, load, z_loss, entropy, usage = (jax.jit(getattr(losses, name)) for name in names)
assignment = jax.jit(losses.assignment_loss)

# One group of two tokens, and the same with two of padding between and after them.
PROBS = [[0.5, 0.3, 0.2], [0.7, 0.2, 0.1]]
PADDED, MASK = [PROBS[0], [0.1, 0.1, 0.8], PROBS[1], [0.3, 0.3, 0.4]], [True, False, True, False]


def routed(probs, experts, weights=None, mask=None):
    """A routing of one group by its probabilities [t, e], choices [t, k] and weights, else equal weights."""
    probs, experts = np.float32([probs]), np.array([experts])
    weights = np.full(experts.shape, 1 / experts.shape[-1]) if weights is None else np.array([weights])
    routing = TopKRouting(*map(jnp.asarray, (np.log(probs), probs, experts, np.float32(weights))))
    return mask_tokens(routing, None if mask is None else jnp.array([mask]))


def nats(*probs):
    return -sum(p * math.log(p) for p in probs)


@pytest.mark.parametrize("experts", [[[0], [1], [2], [3]], [[0, 1], [1, 2], [2, 3], [3, 0]]])
def test_balance_of_a_uniform_routing_is_1_whatever_k_is(experts):
    np.testing.assert_allclose(balance(routed(np.full((4, 4), 0.25), experts)), 1, rtol=1e-6)


def test_balance_of_a_collapsed_routing_is_the_number_of_experts():
    probs = np.tile([1, 1e-30, 1e-30], (5, 1))
    np.testing.assert_allclose(balance(routed(probs, [[0]] * 5)), 3, rtol=1e-6)


def test_balance_of_two_tokens_by_hand():
    # f = (1, 0, 0), P = (.6, .25, .15): 3 · .6
    np.testing.assert_allclose(balance(routed(PROBS, [[0], [0]])), 1.8, rtol=1e-6)
    # k = 2: f = (2, 2, 0) / 4: 3 · (.5 · .6 + .5 · .25)
    np.testing.assert_allclose(balance(routed(PROBS, [[0, 1], [0, 1]])), 1.275, rtol=1e-6)


def test_balance_leaves_padding_out():
    np.testing.assert_allclose(balance(routed(PADDED, [[0], [2], [0], [2]], mask=MASK)), 1.8, rtol=1e-6)
    padded = routed(PADDED, [[0, 1], [2, 0], [0, 1], [2, 0]], mask=MASK)
    np.testing.assert_allclose(balance(padded), 1.275, rtol=1e-6)


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

    loss = jax.jit(jax.value_and_grad(lambda logits: losses.load_balance_loss(softmax_top_k(logits, k))))
    value, gradient = loss(logits.astype(np.float32))
    np.testing.assert_allclose(value, E * f @ np.mean(probs, 0), rtol=1e-5)
    np.testing.assert_allclose(gradient.reshape(-1, E), want_gradient, rtol=1e-4, atol=1e-7)


def test_importance_is_the_squared_variation_of_the_summed_weights():
    # Sums (.9 + .2, .1, .8) = (1.1, .1, .8): mean 2/3, deviations (13, -17, 4)/30, variance 474/2700, over 4/9.
    weights = [[0.9, 0.1], [0.8, 0.2]]
    want = 474 / 2700 * 9 / 4
    np.testing.assert_allclose(importance(routed(PROBS, [[0, 1], [2, 0]], weights)), want, rtol=1e-5)
    padded = routed(PADDED, [[0, 1], [1, 0], [2, 0], [1, 2]], [weights[0], [1, 0], weights[1], [1, 0]], MASK)
    np.testing.assert_allclose(importance(padded), want, rtol=1e-5)


def test_importance_of_equal_sums_is_0_and_of_one_expert_alone_e_minus_1():
    np.testing.assert_allclose(importance(routed(PROBS, [[0, 1], [2, 0]], [[0.5, 1], [1, 0.5]])), 0, atol=1e-6)
    # (2, 0, 0): mean 2/3, variance 8/9, over 4/9
    np.testing.assert_allclose(importance(routed(PROBS, [[0], [0]])), 2, rtol=1e-5)


def test_importance_counts_dropped_choices_too():
    routing = routed([[0.6, 0.4], [0.6, 0.4]], [[0], [0]])
    np.testing.assert_allclose(importance(routing._replace(slots=jnp.array([[[0], [-1]]]))), importance(routing))


def test_importance_of_the_other_routings_sums_their_gates():
    dense = dense_routing(log([PROBS]))  # 1.2, .5, .3
    np.testing.assert_allclose(importance(dense), squared_variation([1.2, 0.5, 0.3]), rtol=1e-4)
    soft = soft_routing(log([[[[1, 2], [3, 4]], [[5, 1], [2, 2]]]]))  # .3 + .6 and .7 + .4
    np.testing.assert_allclose(importance(soft), squared_variation([0.9, 1.1]), rtol=1e-4)
    by_experts = expert_choice(log([PROBS]), 1)  # expert 0 takes token 1, the others token 0
    np.testing.assert_allclose(importance(by_experts), squared_variation([0.7, 0.3, 0.2]), rtol=1e-4)


def test_load_is_the_squared_variation_of_the_summed_selection_probabilities():
    # .9 + .6, .5 + .3 and .6 + .1
    chance = [[0.9, 0.5, 0.6], [0.6, 0.3, 0.1]]
    routing = routed(PROBS, [[0], [0]])._replace(selection_probability=jnp.array([chance]))
    np.testing.assert_allclose(load(routing), squared_variation([1.5, 0.8, 0.7]), rtol=1e-5)
    padded = routed(PADDED, [[0], [1], [0], [1]], mask=MASK)
    padded = padded._replace(selection_probability=jnp.array([[chance[0], [1, 1, 0], chance[1], [0, 1, 1]]]))
    np.testing.assert_allclose(load(padded), squared_variation([1.5, 0.8, 0.7]), rtol=1e-5)


def test_load_without_noise_is_0():
    assert load(routed(PROBS, [[0], [0]])) == 0


def test_z_loss_is_the_mean_square_of_logsumexp():
    # logsumexp of (0, 0) is ln 2, of (0, ln 3) ln 4
    want = (math.log(2) ** 2 + math.log(4) ** 2) / 2
    np.testing.assert_allclose(z_loss(dense_routing(log([[[1.0, 1.0], [1.0, 3.0]]]))), want, rtol=1e-6)
    padded = routed([[1.0, 1], [5, 5], [1, 3], [2, 7]], [[0], [0], [0], [0]], mask=MASK)
    np.testing.assert_allclose(z_loss(padded), want, rtol=1e-6)


def test_z_loss_gradient_and_large_logits_by_hand():
    # logsumexp(100, 100) = 100 + ln 2 = z; the gradient of z² is 2 z · softmax = z for each
    loss = jax.value_and_grad(lambda logits: losses.router_z_loss(dense_routing(logits)))
    value, gradient = loss(jnp.full((1, 1, 2), 100.0))
    z = 100 + math.log(2)
    np.testing.assert_allclose(value, z**2, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[[z, z]]], rtol=1e-6)


def test_entropy_is_the_mean_over_tokens():
    want = (nats(*PROBS[0]) + nats(*PROBS[1])) / 2
    np.testing.assert_allclose(entropy(routed(PROBS, [[0], [0]])), want, rtol=1e-6)
    np.testing.assert_allclose(entropy(routed(PADDED, [[0], [1], [0], [1]], mask=MASK)), want, rtol=1e-6)
    np.testing.assert_allclose(entropy(dense_routing(log([PADDED]), 1.0, jnp.array([MASK]))), want, rtol=1e-6)


def test_usage_is_the_divergence_of_the_mean_distribution_from_an_even_one():
    # mean (.6, .25, .15)
    want = sum(p * math.log(p * 3) for p in (0.6, 0.25, 0.15))
    np.testing.assert_allclose(usage(routed(PROBS, [[0], [0]])), want, rtol=1e-5)
    np.testing.assert_allclose(usage(routed(PADDED, [[0], [1], [0], [1]], mask=MASK)), want, rtol=1e-5)
    np.testing.assert_allclose(usage(dense_routing(jnp.zeros((1, 2, 5)))), 0, atol=1e-6)
    alone = dense_routing(jnp.array([[[0.0, -1000, -1000]]]))
    np.testing.assert_allclose(usage(alone), math.log(3), rtol=1e-6)


def test_entropy_and_usage_of_a_soft_routing_are_of_its_experts_not_its_slots():
    # one token: .3 and .7
    routing = soft_routing(log([[[[1, 2], [3, 4]]]]))
    np.testing.assert_allclose(entropy(routing), nats(0.3, 0.7), rtol=1e-5)
    np.testing.assert_allclose(usage(routing), math.log(2) - nats(0.3, 0.7), rtol=1e-4)


def test_usage_and_entropy_together_are_minus_the_information_of_token_and_expert():
    # I = H(mean) - mean of H; usage + entropy = ln E - I
    information = nats(0.6, 0.25, 0.15) - (nats(*PROBS[0]) + nats(*PROBS[1])) / 2
    routing = routed(PROBS, [[0], [0]])
    np.testing.assert_allclose(usage(routing) + entropy(routing), math.log(3) - information, rtol=1e-5)


@jax.jit
def gradients_of_the_losses(logits, mask=None):
    """By the logits of a masked routing to two experts whose selection probability is its probability."""

    def loss(logits, name):
        routing = mask_tokens(softmax_top_k(logits, 2), mask)
        return getattr(losses, name)(routing._replace(selection_probability=routing.probs))

    return {name: jax.grad(loss)(logits, name) for name in names}


@pytest.mark.parametrize("barred", [-1000.0, -np.inf])
@pytest.mark.parametrize("name", names)
def test_gradients_stay_finite_when_a_probability_is_0(name, barred):
    assert np.isfinite(gradients_of_the_losses(jnp.array([[[0.0, 1.0, barred]]]))[name]).all()


def test_assignment_is_binary_cross_entropy_over_tokens_and_experts():
    # Token 0 to expert 1, token 1 to expert 0.
    hits, misses = (0.3, 0.7), (0.5, 0.2, 0.2, 0.1)
    want = -(sum(map(math.log, hits)) + sum(math.log(1 - p) for p in misses)) / 6
    np.testing.assert_allclose(assignment(routed(PROBS, [[0], [0]]), jnp.array([[1, 0]])), want, rtol=1e-5)
    padded = routed(PADDED, [[0], [1], [0], [1]], mask=MASK)
    np.testing.assert_allclose(assignment(padded, jnp.array([[1, 0, 0, 2]])), want, rtol=1e-5)


def binary_cross_entropy(p, target):
    """PyTorch's, of one number: "clamps its log function outputs to be greater than or equal to -100"."""
    logs = (max(math.log(q), -100) if q > 0 else -100 for q in (p, 1 - p))
    return -sum(t * log for t, log in zip((target, 1 - target), logs, strict=True))


@pytest.mark.parametrize("p", [0.0, 1e-30, 0.2, 1.0])
def test_assignment_of_certain_probabilities_equals_pytorchs(p):
    routing = dense_routing(jnp.zeros((1, 1, 2)))._replace(probs=jnp.array([[[p, 1 - p]]], jnp.float32))
    want = (binary_cross_entropy(p, 1) + binary_cross_entropy(1 - p, 0)) / 2
    np.testing.assert_allclose(assignment(routing, jnp.array([[0]])), want, rtol=1e-5)


@jax.jit
def assignment_and_gradient(logits):
    return jax.value_and_grad(lambda logits: losses.assignment_loss(dense_routing(logits), jnp.array([[0]])))(logits)


@pytest.mark.parametrize("logit", [0.0, 20.0, 1000.0, -1000.0])
def test_assignment_has_a_finite_gradient_when_the_router_is_certain(logit):
    value, gradient = assignment_and_gradient(jnp.array([[[logit, 0.0, 0.0]]]))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_squared_variation_is_of_a_population():
    # mean 2, deviations -1, 0, 1: variance 2/3, over 4
    np.testing.assert_allclose(losses.squared_variation(jnp.array([1.0, 2, 3])), 1 / 6, rtol=1e-6)
    assert losses.squared_variation(jnp.zeros(3)) == 0


@pytest.mark.parametrize("name", names)
def test_nothing_but_padding_gives_no_gradient(name):
    gradient = gradients_of_the_losses(jnp.ones((1, 4, 3)), jnp.zeros((1, 4), bool))[name]
    np.testing.assert_array_equal(gradient, np.zeros((1, 4, 3)))


def test_the_mean_square_is_over_all_numbers_of_all_arrays():
    module = {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "bias": jnp.array([5.0])}
    np.testing.assert_allclose(losses.mean_square(module), (1 + 4 + 9 + 16 + 25) / 5)


@pytest.mark.parametrize(
    ("array", "mean"), [(jnp.ones(70_000, jnp.float16), 1), (jnp.full(4, 100, jnp.int8), 10_000)], ids=["half", "int8"]
)
def test_the_mean_square_is_of_numbers_wide_enough(array, mean):
    assert losses.mean_square([array]) == mean


def test_the_auxiliary_loss_is_the_weighted_sum_over_the_layers():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4)), jnp.float32)
    sparse, taken = softmax_top_k(logits, 2), expert_choice(logits, 2)
    assigned = jnp.zeros((2, 5), int)
    dense, soft = dense_routing(logits)._replace(assigned=assigned), soft_routing(logits[..., None])
    np.testing.assert_allclose(
        losses.auxiliary_loss(sparse), 0.01 * balance(sparse) + 0.001 * z_loss(sparse), rtol=1e-6
    )
    weights = {
        "balance": 0.5,
        "z": 2.0,
        "importance": 3.0,
        "load": 5.0,
        "entropy": 7.0,
        "usage": 11.0,
        "assignment": 13.0,
    }
    of_all = [
        sum(w * f(r) for w, f in ((3, importance), (7, entropy), (11, usage))) for r in (sparse, taken, dense, soft)
    ]
    of_some = 0.5 * balance(sparse) + 2 * (z_loss(sparse) + z_loss(taken)) + 13 * assignment(dense, assigned)
    got = jax.jit(lambda *routings: losses.auxiliary_loss(routings, **weights))(sparse, taken, dense, soft)
    np.testing.assert_allclose(got, sum(of_all) + of_some, rtol=1e-5)
    assert losses.auxiliary_loss([]) == losses.auxiliary_loss(dense) == 0


def test_the_auxiliary_loss_refuses_what_is_no_weight_and_no_routing():
    routing = dense_routing(jnp.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match=r"balance is -1.0; it must be a number of at least 0."):
        losses.auxiliary_loss(routing, balance=-1.0)
    with pytest.raises(ValueError, match="assigned is None, and the layer was called without"):
        losses.auxiliary_loss(routing, assignment=1.0)
    assert {
        name: p.default
        for name, p in inspect.signature(losses.auxiliary_loss).parameters.items()
        if p.default not in (0, p.empty)
    } == {"balance": 0.01, "z": 0.001, "balance_over": "global_batch", "micro_batches": 1, "global_loads": None}
