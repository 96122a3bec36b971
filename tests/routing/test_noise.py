"""Noisy routers: Shazeer's and V-MoE's choice and their smooth load, against loops, formulas and draws; jitter."""

from functools import partial

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
G, T, E = 2, 3, 5
noisy_top_k = jax.jit(routing.noisy_top_k, static_argnums=2)
vmoe_top_k = jax.jit(routing.vmoe_top_k, static_argnums=1)
selection_probability = jax.jit(routing.selection_probability, static_argnums=3)
jitter = jax.jit(routing.jitter, static_argnums=2)
normal = jax.jit(lambda key: jax.random.normal(key, (G, T, E)))


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def in_numpy(routing):
    """For a loop to index quickly."""
    return jax.tree.map(np.asarray, routing)


def assert_selection_probability_equals_loop(got, clean, noisy, deviation, k):
    got, *rows = (np.asarray(a, np.float64) for a in (got, clean, noisy, deviation))
    for g, t in np.ndindex(G, T):
        # float32: a difference of size 1 over a deviation down to 0.1
        np.testing.assert_allclose(
            got[g, t], reference.selection_probability(*(a[g, t] for a in rows), k), rtol=1e-4, atol=1e-5
        )


@few
@given(seeds, st.sampled_from([2, E]))
def test_shazeers_choice_equals_a_loop_on_the_noisy_logits(seed, k):
    clean, spread = draw(seed, G, T, E), draw(seed + 1, G, T, E)
    deviation = np.log1p(np.exp(spread)) + 0.01
    got = in_numpy(noisy_top_k(clean, spread, k, jax.random.key(seed)))
    noise = np.asarray(normal(jax.random.key(seed)))
    np.testing.assert_allclose(got.logits, clean + deviation * noise, rtol=1e-4, atol=1e-5)
    for g, t in np.ndindex(G, T):
        experts, weights = reference.choose_then_softmax(got.logits[g, t].astype(np.float64), k)
        np.testing.assert_array_equal(got.experts[g, t], experts)
        np.testing.assert_allclose(got.weights[g, t], weights, rtol=1e-5)
    assert_selection_probability_equals_loop(got.selection_probability, clean, got.logits, deviation, k)


@few
@given(seeds, st.sampled_from([1, 3]))
def test_vmoes_choice_equals_a_loop_on_the_noisy_logits(seed, k):
    logits, key = draw(seed, G, T, E), jax.random.key(seed)
    got = in_numpy(vmoe_top_k(logits, k, key))
    np.testing.assert_allclose(got.logits, logits + np.asarray(normal(key)) / E, rtol=1e-4, atol=1e-5)
    for g, t in np.ndindex(G, T):
        experts, weights = reference.choose(got.logits[g, t].astype(np.float64), k, renormalize=False)
        np.testing.assert_array_equal(got.experts[g, t], experts)
        np.testing.assert_allclose(got.weights[g, t], weights, rtol=1e-5)
        np.testing.assert_allclose(got.probs[g, t], reference.softmax(logits[g, t].astype(np.float64)), rtol=1e-5)
    assert_selection_probability_equals_loop(
        got.selection_probability, logits, got.logits, np.full((G, T, E), 1 / E), k
    )


def test_without_a_key_there_is_no_noise_and_no_selection_probability():
    clean, spread = draw(0, G, T, E), draw(1, G, T, E)
    not_renormalised = jax.jit(partial(routing.softmax_top_k, k=2, renormalize=False))
    for got, want in (
        (noisy_top_k(clean, spread, 2, None), jax.jit(partial(routing.top_k_softmax, k=2))(clean)),
        (vmoe_top_k(clean, 2, None), not_renormalised(clean)),
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want)
        assert got.selection_probability is None


def test_a_barred_expert_leaves_all_gradients_finite():
    clean = jnp.asarray(draw(0, G, T, E)).at[0, 0, 1].set(-jnp.inf)

    def probability(clean, spread):
        return noisy_top_k(clean, spread, 2, jax.random.key(0)).selection_probability

    both = clean, jnp.asarray(draw(1, G, T, E))
    assert jax.jit(probability)(*both)[0, 0, 1] == 0
    for gradient in jax.jit(jax.grad(lambda *both: probability(*both).sum(), argnums=(0, 1)))(*both):
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


def test_a_key_is_one_choice_and_another_key_another():
    flat = np.zeros((G, T, E), np.float32)
    for router in (lambda key: noisy_top_k(flat, flat, 2, key), lambda key: vmoe_top_k(flat, 2, key)):
        first, again, other = (in_numpy(router(jax.random.key(seed))) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first.experts, again.experts)
        assert (first.experts != other.experts).any()


def test_selection_probability_compares_with_the_kth_best_of_the_others():
    # Noisy logits 3, 2, 1, so k = 1 takes expert 0. Its threshold is the best of the others, 2; that of the others, 3.
    # k = 2 takes 0 and 1: thresholds 1 for both, and 2 for expert 2.
    clean, noisy = jnp.array([[[2.5, 2.5, 0.0]]]), jnp.array([[[3.0, 2.0, 1.0]]])
    deviation = jnp.array([[[0.5, 1.0, 2.0]]])
    cdf = reference.normal_cdf
    one = selection_probability(clean, noisy, deviation, 1)
    np.testing.assert_allclose(one, [[[cdf(0.5 / 0.5), cdf(-0.5 / 1), cdf(-3 / 2)]]], rtol=1e-5)
    two = selection_probability(clean, noisy, deviation, 2)
    np.testing.assert_allclose(two, [[[cdf(1.5 / 0.5), cdf(1.5 / 1), cdf(-2 / 2)]]], rtol=1e-5)


def test_selection_probability_is_1_when_all_are_chosen():
    got = noisy_top_k(draw(0, G, T, E), draw(1, G, T, E), E, jax.random.key(0))
    np.testing.assert_array_equal(got.selection_probability, np.ones((G, T, E)))


@pytest.mark.parametrize("k", [1, 2])
def test_selection_probability_is_how_often_an_expert_is_chosen_when_its_own_noise_is_drawn_anew(k):
    # 20,000 draws: a standard deviation of at most .5 / √20,000 = .0035.
    rng, draws = np.random.default_rng(0), 20_000
    clean, deviation = draw(2, 1, 1, E), np.abs(draw(3, 1, 1, E))
    noisy = clean + deviation * draw(4, 1, 1, E)
    got = selection_probability(clean, noisy, deviation, k)
    for e in range(E):
        trials = np.tile(noisy[0, 0], (draws, 1))
        trials[:, e] = clean[0, 0, e] + deviation[0, 0, e] * rng.normal(size=draws)
        rank = (trials > trials[:, [e]]).sum(1)
        np.testing.assert_allclose(got[0, 0, e], (rank < k).mean(), atol=0.015)


@jax.jit
def gradients_of_selection_probability(clean, spread):
    """Of the sum of squared loads, by the logits and by their spread."""

    def loss(clean, spread):
        return (routing.noisy_top_k(clean, spread, 2, jax.random.key(0)).selection_probability.sum((0, 1)) ** 2).sum()

    return jax.grad(loss, argnums=(0, 1))(clean, spread)


def test_selection_probability_gives_the_router_and_its_spread_a_gradient():
    for gradient in gradients_of_selection_probability(draw(0, G, T, E), draw(1, G, T, E)):
        assert np.isfinite(gradient).all()
        assert np.any(gradient)


@pytest.mark.parametrize("spread", [-20.0, -50.0, -200.0])
def test_the_gradient_stays_finite_when_the_noise_vanishes(spread):
    for gradient in gradients_of_selection_probability(draw(0, G, T, E), np.full((G, T, E), spread, np.float32)):
        assert np.isfinite(gradient).all()


def test_jitter_multiplies_each_number_by_its_own_factor_near_1():
    x = jnp.asarray(np.random.default_rng(0).uniform(1, 2, size=(2, 50, 8)), jnp.float32)
    factor = np.asarray(jitter(jax.random.key(0), x, 0.1) / x)
    assert 0.9 - 1e-6 <= factor.min() < 0.91
    assert 1.09 < factor.max() <= 1.1 + 1e-6
    np.testing.assert_allclose(factor.mean(), 1, atol=0.01)  # deviation .1/√3/√800 = .002
    assert len(np.unique(factor.round(6))) > 700


def test_no_jitter_leaves_the_input_alone():
    x = draw(0, 1, 3, 4)
    np.testing.assert_array_equal(jitter(jax.random.key(0), x, 0.0), x)


@few
@given(seeds, st.sampled_from([1, 2]), st.booleans())
def test_uniform_noise_chooses_and_weighs_as_a_loop_does(seed, k, raw):
    logits = draw(seed, G, T, E)
    got = in_numpy(jax.jit(routing.uniform_top_k, static_argnums=(1,), static_argnames="raw")(logits, k, None, raw=raw))
    noisy = in_numpy(
        jax.jit(routing.uniform_top_k, static_argnums=(1,), static_argnames="raw")(
            logits, k, jax.random.key(seed), raw=raw
        )
    )
    added = noisy.logits - logits
    assert (added >= 0).all()
    assert (added <= 1).all()
    np.testing.assert_array_equal(got.logits, logits)
    for routed in (got, noisy):
        for g, t in np.ndindex(G, T):
            experts = reference.best(routed.logits[g, t], k)
            np.testing.assert_array_equal(routed.experts[g, t], experts)
            probs = reference.softmax(logits[g, t].astype(np.float64))
            want = routed.logits[g, t][experts] if raw else probs[experts]
            np.testing.assert_allclose(routed.weights[g, t], want, rtol=1e-5)
            np.testing.assert_allclose(routed.probs[g, t], probs, rtol=1e-5)


def test_uniform_noise_is_uniform_and_anew_for_each_key():
    logits = jnp.zeros((1, 4000, 2))
    one, other = (np.asarray(routing.uniform_top_k(logits, 1, jax.random.key(seed)).logits) for seed in (0, 1))
    assert np.abs(one - other).max() > 0.1
    np.testing.assert_allclose([one.mean(), one.var()], [1 / 2, 1 / 12], atol=0.02)
