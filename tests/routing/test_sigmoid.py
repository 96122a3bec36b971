"""The sigmoid router: scores one by one, a bias for the choice alone, groups of experts, and the bias's own rule."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from moejax import metrics, routing
from moejax.routing.sigmoid import log_sqrt_softplus

few = settings(max_examples=25)
G, T, E = 2, 3, 6
sigmoid_top_k = jax.jit(
    routing.sigmoid_top_k,
    static_argnums=1,
    static_argnames=("score_function", "renormalize", "scale", "num_expert_groups", "topk_group"),
)
update_bias = jax.jit(routing.update_bias, static_argnums=2, static_argnames="center")
SCORES = {"sigmoid": reference.sigmoid, "sqrtsoftplus": reference.sqrtsoftplus}


def logit(scores):
    """Logits whose sigmoid is `scores`."""
    scores = np.asarray(scores)
    return jnp.asarray(np.log(scores / (1 - scores)), jnp.float32)


GIVEN = logit([[[0.8, 0.2, 0.6, 0.4]]])


def test_the_scores_are_sigmoids_renormalised_over_the_chosen():
    got = sigmoid_top_k(GIVEN, 2)
    np.testing.assert_array_equal(got.experts, [[[0, 2]]])
    np.testing.assert_allclose(got.weights, [[[0.8 / 1.4, 0.6 / 1.4]]], rtol=1e-5)
    np.testing.assert_allclose(got.probs, [[[0.4, 0.1, 0.3, 0.2]]], rtol=1e-5)  # of 2 in all
    np.testing.assert_allclose(sigmoid_top_k(GIVEN, 2, renormalize=False).weights, [[[0.8, 0.6]]], rtol=1e-5)


def test_the_scale_comes_last():
    np.testing.assert_allclose(sigmoid_top_k(GIVEN, 2, scale=2.5).weights.sum(), 2.5, rtol=1e-6)
    got = sigmoid_top_k(GIVEN, 2, scale=2.5, renormalize=False)
    np.testing.assert_allclose(got.weights, [[[2, 1.5]]], rtol=1e-5)


def test_the_bias_decides_but_does_not_weigh():
    # Biased .8, .9, .6, 0: experts 1 and 0, weighted by .2 and .8.
    got = sigmoid_top_k(GIVEN, 2, bias=jnp.array([0.0, 0.7, 0, -0.4]))
    np.testing.assert_array_equal(got.experts, [[[1, 0]]])
    np.testing.assert_allclose(got.weights, [[[0.2, 0.8]]], rtol=1e-5)
    np.testing.assert_allclose(got.probs, [[[0.4, 0.1, 0.3, 0.2]]], rtol=1e-5)


def test_a_group_is_scored_by_its_best_two_with_their_bias():
    # Groups .8 + .2 = 1 and .6 + .4 = 1: a tie, to the first. A bias of .1 on expert 3 gives it to the second.
    got = sigmoid_top_k(logit([[[0.75, 0.25, 0.5, 0.5]]]), 1, num_expert_groups=2, topk_group=1)
    np.testing.assert_array_equal(got.experts, [[[0]]])
    got = sigmoid_top_k(GIVEN, 1, bias=jnp.array([0, 0, 0, 0.1]), num_expert_groups=2, topk_group=1)
    np.testing.assert_array_equal(got.experts, [[[2]]])
    np.testing.assert_allclose(got.weights, [[[0.6]]], rtol=1e-6)


def test_one_weight_alone_stays_the_sigmoid_and_has_a_gradient():
    def weights(logits):
        return routing.sigmoid_top_k(logits, 1, scale=2.5).weights.sum()

    weight, gradient = jax.jit(jax.value_and_grad(weights))(GIVEN)
    np.testing.assert_allclose(weight, 2.5 * 0.8, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[[2.5 * 0.8 * 0.2, 0, 0, 0]]], rtol=1e-5)


def test_groups_of_one_expert_are_scored_by_it():
    got = sigmoid_top_k(GIVEN, 2, num_expert_groups=4, topk_group=2)
    np.testing.assert_array_equal(got.experts, [[[0, 2]]])


def test_a_negative_biased_score_still_beats_a_barred_expert():
    # All biased scores are below 0; only the first group, the better one, may be used.
    got = sigmoid_top_k(GIVEN, 2, bias=jnp.full(4, -5.0), num_expert_groups=2, topk_group=1)
    assert set(np.asarray(got.experts).ravel().tolist()) in ({0, 1}, {2, 3})


SETTINGS = [
    (1, {}),
    (2, {}),
    (E, {}),
    (2, {"renormalize": False, "scale": 2.5}),
    (3, {"scale": 2.5, "num_expert_groups": 3, "topk_group": 2}),
    (2, {"num_expert_groups": 2, "topk_group": 1}),
]


@few
@given(st.integers(0, 1000), st.sampled_from(SETTINGS), st.sampled_from(list(SCORES)))
def test_sigmoid_top_k_equals_a_loop(seed, setting, score_function):
    k, options = setting
    rng = np.random.default_rng(seed)
    logits, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((G, T, E), E))
    got = jax.tree.map(np.asarray, sigmoid_top_k(logits, k, bias=bias / 2, score_function=score_function, **options))
    for g, t in np.ndindex(G, T):
        scores = SCORES[score_function](logits[g, t].astype(np.float64))
        experts, weights = reference.choose_by_score(scores, k, bias / 2, **options)
        np.testing.assert_array_equal(got.experts[g, t], experts)
        np.testing.assert_allclose(got.weights[g, t], weights, rtol=1e-5)
        np.testing.assert_allclose(got.probs[g, t], scores / scores.sum(), rtol=1e-5)


@pytest.mark.parametrize("score_function", SCORES)
@pytest.mark.parametrize("renormalize", [True, False])
def test_scores_far_out_leave_weights_and_gradients_finite(score_function, renormalize):
    def loss(logits):
        got = routing.sigmoid_top_k(logits, 2, score_function=score_function, renormalize=renormalize)
        return got.weights[..., 0].sum() + (got.probs**2).sum(), got

    far = jnp.array([[[-60.0] * 4, [-300.0] * 4, [3e38, -3e38, 0, 1], [1e6, 1e6, -1e6, 0]]])
    gradient, got = jax.jit(jax.grad(loss, has_aux=True))(far)
    assert np.isfinite(got.weights).all()
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(got.probs.sum(-1), np.ones((1, 4)), rtol=1e-6)
    if renormalize:
        np.testing.assert_allclose(got.weights.sum(-1), np.ones((1, 4)), rtol=1e-6)


def test_roots_of_softplus_by_hand():
    # √ln(1 + e⁰) = √ln 2; a logit of ln 15 gives √ln 16 = 2 √ln 2, one of ln(e⁴ - 1) gives 2.
    logits = jnp.log(jnp.array([[[1.0, 15, math.e**4 - 1]]]))
    got = sigmoid_top_k(logits, 2, score_function="sqrtsoftplus", renormalize=False)
    np.testing.assert_array_equal(got.experts, [[[2, 1]]])
    np.testing.assert_allclose(got.weights, [[[2, 2 * math.log(2) ** 0.5]]], rtol=1e-6)
    total = 3 * math.log(2) ** 0.5 + 2
    np.testing.assert_allclose(got.probs[0, 0, 2], 2 / total, rtol=1e-6)


def test_roots_of_softplus_and_their_gradient_are_exact_on_both_sides_of_their_switch():
    x = np.array([-87.0, -41, -40, -39.9, -20, -1, 0, 1, 20, 90])
    both = jax.jit(jax.vmap(jax.value_and_grad(log_sqrt_softplus)))
    with jax.enable_x64():
        value, slope = both(jnp.asarray(x))
    want = np.log(np.log1p(np.exp(x))) / 2
    np.testing.assert_allclose(value, want, rtol=1e-14)
    np.testing.assert_allclose(slope, reference.sigmoid(x) / np.log1p(np.exp(x)) / 2, rtol=1e-13)
    np.testing.assert_allclose(both(jnp.asarray(x, jnp.float32))[0], want, rtol=1e-5)


def test_the_bias_gets_no_gradient_from_the_choice():
    gradient = jax.grad(lambda bias: (routing.sigmoid_top_k(GIVEN, 2, bias=bias).weights ** 2).sum())(jnp.zeros(4))
    np.testing.assert_array_equal(gradient, np.zeros(4))


def test_the_bias_moves_one_rate_towards_the_mean_load():
    # Mean .25: the first has more, the second less, the others have it exactly.
    got = update_bias(jnp.array([0.0, 0.1, 0.2, 0.3]), jnp.array([0.375, 0.125, 0.25, 0.25]), 0.01)
    np.testing.assert_allclose(got, [-0.01, 0.11, 0.2, 0.3], rtol=1e-6)


@pytest.mark.parametrize(("num_experts", "tokens", "k"), [(5, 25, 1), (12, 600, 2), (160, 320, 8)])
def test_the_bias_of_an_expert_on_the_mean_stays_whatever_its_share_is_rounded_to(num_experts, tokens, k):
    even = (np.arange(tokens)[:, None] + np.arange(k)[None]) % num_experts
    chosen = even.copy()
    chosen[0, 0] = num_experts - 1  # first one fewer, last one more, unless it is chosen twice
    for experts in (even, chosen):
        counts = np.bincount(experts.ravel(), minlength=num_experts)
        probs = jnp.ones((1, tokens, num_experts))
        load = metrics.load(routing.TopKRouting(probs, probs, jnp.asarray(experts)[None], jnp.ones((1, tokens, k))))
        want = np.sign(counts.sum() - counts * num_experts)
        np.testing.assert_array_equal(update_bias(jnp.zeros(num_experts), load, 1.0), want)


def test_groups_that_hold_fewer_than_k_experts_are_refused():
    for choose in (routing.sigmoid_top_k, routing.softmax_top_k):
        with pytest.raises(ValueError, match="k is 5; it must be a whole number from 1 to 4"):
            choose(jnp.zeros((1, 2, 8)), 5, num_expert_groups=4, topk_group=2)
    with pytest.raises(ValueError, match="best_of_group is 2; it must be a whole number from 1 to 1"):
        routing.limit_to_groups(jnp.zeros((1, 2, 4)), 4, 2, 2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_loads_may_be_of_any_floating_type(dtype):
    load = jnp.array([1, 1.25, 1, 0.75], dtype)
    np.testing.assert_array_equal(update_bias(jnp.zeros(4), load, 1.0), [0, -1, 0, 1])


def test_a_centred_bias_moves_as_far_from_the_others_and_keeps_its_mean():
    # Signs -1, 1, 1, 0: their mean .25.
    bias, load = jnp.array([0.0, 0.1, 0.2, 0.3]), jnp.array([0.5, 0.125, 0.125, 0.25])
    np.testing.assert_allclose(update_bias(bias, load, 0.01), [-0.01, 0.11, 0.21, 0.3], rtol=1e-6)
    got = update_bias(bias, load, 0.01, center=True)
    np.testing.assert_allclose(got, [-0.0125, 0.1075, 0.2075, 0.2975], rtol=1e-5)
    np.testing.assert_allclose(got.mean(), bias.mean(), rtol=1e-6)


@few
@given(st.integers(0, 1000), st.integers(-50, 50), st.sampled_from(SETTINGS[1::2]))
def test_no_choice_depends_on_what_is_added_to_all_biases(seed, shift, setting):
    """So re-centring changes none. In 256ths, without ties, which the order of addition might break either way."""
    k, options = setting
    rng = np.random.default_rng(seed)
    scores, bias = rng.integers(1, 16, (G, T, E)) / 16, rng.integers(-8, 8, E) / 16 + np.arange(E) / 256
    one, other = (sigmoid_top_k(logit(scores), k, bias=jnp.float32(bias + s), **options) for s in (0, shift))
    np.testing.assert_array_equal(one.experts, other.experts)
    np.testing.assert_array_equal(one.weights, other.weights)


def test_the_bias_balances_a_router_that_prefers_one_expert():
    # Scores about .6 for expert 0 and .5 for the rest: k = 1 sends nearly all tokens to it until its bias has fallen.
    logits = np.random.default_rng(0).normal(scale=0.2, size=(1, 400, 4)).astype(np.float32)
    logits[..., 0] += 0.5
    logits = jnp.asarray(logits)

    def step(bias, _):
        load = routing.sigmoid_top_k(logits, 1, bias=bias).choices.mean((0, 1))
        return routing.update_bias(bias, load, 2e-3), load

    _, loads = jax.lax.scan(step, jnp.zeros(4), length=150)
    assert loads[0].max() > 0.8
    assert loads[-1].max() < 0.3


def test_the_choice_is_the_same_under_jit_and_vmap():
    logits = np.random.default_rng(1).normal(size=(4, G, T, E)).astype(np.float32)
    together = jax.jit(jax.vmap(partial(routing.sigmoid_top_k, k=2)))(logits)
    for i, one in enumerate(logits):
        np.testing.assert_array_equal(together.experts[i], sigmoid_top_k(one, 2).experts)
