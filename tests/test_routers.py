"""The routers: what their options and their context do, what is learnt and what is state, and full precision."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from seldom import slow_but_for

from moejax import losses, metrics, routing
from moejax.routers import ROUTERS, Context, DenseRouter, RouterState, SoftRouter

G, T, E, D, K = 2, 7, 6, 4, 2
LEARNT = [name for name in ROUTERS if name not in ("hash", "random")]


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def make(name, k=K, filled=True, **options):
    def build():
        return ROUTERS[name](D, E, 1 if name == "switch" else k, **options, rngs=nnx.Rngs(0))

    return reference.randomly_filled(build) if filled else build()


X = draw(0, G, T, D)


@partial(jax.jit, static_argnames=("capacity", "train"))
def route(router, x, capacity=None, *, train=False, seed=None, mask=None, ids=None):
    return router(x, capacity, Context(train, None if seed is None else jax.random.key(seed), mask, ids))


@jax.jit
def run(router, x):
    """A dense or a soft router."""
    return router(x)


@jax.jit
def logits_of(x, kernel):
    return jnp.matmul(x, kernel, precision="highest")


def plain(name, logits, spread, k):
    """The pure function behind a name, as evaluation calls it."""
    return {
        "softmax_top_k": lambda: routing.softmax_top_k(logits, k),
        "top_k_softmax": lambda: routing.top_k_softmax(logits, k),
        "switch": lambda: routing.switch(logits),
        "noisy_top_k": lambda: routing.noisy_top_k(logits, spread, k, None),
        "vmoe": lambda: routing.vmoe_top_k(logits, k, None),
        "uniform": lambda: routing.uniform_top_k(logits, k, None),
        "sigmoid": lambda: routing.sigmoid_top_k(logits, k, bias=jnp.zeros(E)),
        "sinkhorn": lambda: routing.sinkhorn_top_k(logits, k, balance=False),
        "relu": lambda: routing.relu_routing(logits, 0.5 * E / k),
    }[name]()


@pytest.mark.parametrize("name", [name for name in LEARNT if name != "expert_choice"])
def test_a_name_is_its_function_of_linear_logits_with_slots(name):
    router = make(name)
    if name == "sigmoid":
        router.bias[...] = jnp.zeros(E)
    if name == "relu":
        router.l1_reg_coeff[...] = jnp.float32(0.5)
    logits = logits_of(X, router.kernel[...])
    want = jax.jit(lambda logits: routing.assign(plain(name, logits, jnp.zeros((G, T, E)), K), 3))(logits)
    got = route(router, X, 3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, want)


def test_expert_choice_takes_as_many_as_the_capacity_says():
    router = make("expert_choice")
    mask = jnp.asarray(np.arange(T) < [[5], [2]])
    got = route(router, X, 3, mask=mask)
    want = jax.jit(routing.expert_choice, static_argnums=1)(logits_of(X, router.kernel[...]), 3, mask)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, want)
    with pytest.raises(ValueError, match="capacity is None"):
        router(X)


def test_without_a_capacity_there_are_no_slots():
    got = route(make("softmax_top_k"), X)
    assert got.slots is None
    assert got.kept.all()


# Options


def test_weights_are_renormalised_or_not():
    for name in ("softmax_top_k", "sigmoid"):
        np.testing.assert_allclose(route(make(name), X).weights.sum(-1), np.ones((G, T)), rtol=1e-5)
        assert (np.abs(route(make(name, renormalize=False), X).weights.sum(-1) - 1) > 1e-3).any()


@pytest.mark.parametrize("name", ["softmax_top_k", "sigmoid"])
def test_weights_are_scaled(name):
    got = route(make(name, routed_scaling_factor=2.5), X)
    np.testing.assert_allclose(got.weights.sum(-1), np.full((G, T), 2.5), rtol=1e-5)


@pytest.mark.parametrize("name", ["softmax_top_k", "sigmoid"])
def test_tokens_stay_within_their_groups_of_experts(name):
    got = route(make(name, num_expert_groups=3, topk_group=1), X)
    assert (np.asarray(got.experts)[..., 0] // 2 == np.asarray(got.experts)[..., 1] // 2).all()


def test_priority_by_weight_lets_the_surest_tokens_in_first():
    router, first = make("softmax_top_k", priority="weight"), make("softmax_top_k")
    got = route(router, X, 1)
    chosen = route(first, X)
    want = jax.jit(lambda chosen: routing.assign(chosen, 1, chosen.weights[..., 0]))(chosen)
    np.testing.assert_array_equal(got.slots, want.slots)
    assert (np.asarray(got.slots) != route(first, X, 1).slots).any()
    # Of those who want an expert first, the one with the largest weight has it.
    for g, e in np.ndindex(G, E):
        mine = np.flatnonzero(np.asarray(got.experts)[g, :, 0] == e)
        if len(mine):
            winner = mine[np.asarray(got.weights)[g, mine, 0].argmax()]
            assert got.slots[g, winner, 0] == 0


def test_priority_is_the_highest_weight_whichever_choice_has_it():
    router = make("sigmoid", priority="weight")
    router.bias[...] = router.bias[...].at[0].set(5.0)  # all choose expert 0 first, whatever it weighs
    got = route(router, X, 2)
    highest = np.asarray(got.weights).max(-1)
    assert (highest > np.asarray(got.weights)[..., 0] + 1e-3).any()
    for g in range(G):
        kept = np.asarray(got.slots)[g, :, 0] >= 0
        assert highest[g][kept].min() >= highest[g][~kept].max()


def test_jitter_needs_a_key_and_moves_the_logits_a_little():
    still, shaken = make("softmax_top_k"), make("softmax_top_k", jitter=0.01)
    want = np.asarray(route(still, X).logits)
    np.testing.assert_array_equal(route(shaken, X).logits, want)
    with pytest.raises(ValueError, match="key is None, but the router SoftmaxTopK draws noise in training; pass key="):
        route(shaken, X, train=True)
    one, same, other = (np.asarray(route(shaken, X, seed=seed).logits) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    # Each term of a logit by at most 1 %.
    most = 0.0101 * np.abs(np.asarray(X)) @ np.abs(np.asarray(still.kernel[...]))
    moved = np.abs(one - want)
    assert (moved <= most + 1e-6).all()
    assert moved.max() > 0


@pytest.mark.parametrize("name", ["noisy_top_k", "vmoe", "uniform", "random"])
def test_noise_needs_a_key(name):
    router = make(name)
    with pytest.raises(
        ValueError, match=f"key is None, but the router {ROUTERS[name].__name__} draws noise in training; pass key="
    ):
        route(router, X, train=True)
    quiet, noisy = route(router, X), route(router, X, train=True, seed=0)
    if name != "random":
        assert (np.asarray(quiet.logits) != noisy.logits).any()
        np.testing.assert_allclose(quiet.logits, logits_of(X, router.kernel[...]), rtol=1e-6)
    if name in ("noisy_top_k", "vmoe"):
        assert quiet.selection_probability is None
        assert noisy.selection_probability is not None


def test_a_fresh_noisy_router_leaves_everything_to_the_noise():
    router = make("noisy_top_k", filled=False)
    np.testing.assert_array_equal(router.kernel[...], np.zeros((D, E)))
    np.testing.assert_array_equal(router.spread[...], np.zeros((D, E)))
    experts = [route(router, X, train=True, seed=seed).experts for seed in range(20)]
    # 20 · 14 · 2 choices over 6 experts: a share of 1/6 with a deviation below .016
    share = np.bincount(np.ravel(experts), minlength=E) / np.size(experts)
    np.testing.assert_allclose(share, np.full(E, 1 / E), atol=0.06)


def test_the_spread_of_the_noise_is_learnt():
    def loss(router):
        return (route(router, X, train=True, seed=0).selection_probability.sum((0, 1)) ** 2).sum()

    gradient = jax.jit(jax.grad(loss))(make("noisy_top_k"))
    assert np.any(gradient.spread[...])
    assert np.any(gradient.kernel[...])


def test_sinkhorn_balances_in_training_only():
    router, mask = make("sinkhorn", k=1), jnp.asarray(np.arange(T) < [[5], [7]])
    logits = logits_of(X, router.kernel[...])
    train = route(router, X, train=True, mask=mask)
    want = jax.jit(lambda logits: routing.mask_tokens(routing.sinkhorn_top_k(logits, 1, mask), mask))(logits)
    np.testing.assert_array_equal(train.experts, want.experts)
    np.testing.assert_array_equal(route(router, X).experts[..., 0], np.argmax(logits, -1))
    # Without balance a token's experts do not depend on the others.
    np.testing.assert_array_equal(route(router, X[:, :3]).experts, route(router, X).experts[:, :3])


def test_a_hash_router_hashes_the_ids_or_else_the_positions():
    router = make("hash")
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 30_000, (G, T)), jnp.int32)
    np.testing.assert_array_equal(route(router, X, ids=ids).experts, routing.hash_routing(ids, E, K).experts)
    got = route(router, X).experts
    np.testing.assert_array_equal(got[0], got[1])
    np.testing.assert_array_equal(got, routing.hash_routing(jnp.tile(jnp.arange(T), (G, 1)), E, K).experts)


def test_a_random_router_draws_anew_in_training_and_once_for_all_at_evaluation():
    router = make("random")
    np.testing.assert_array_equal(route(router, X).experts, route(router, X).experts)
    one, other = (route(router, X, train=True, seed=seed).experts for seed in (0, 1))
    assert (np.asarray(one) != other).any()


# What is learnt


@pytest.mark.parametrize("name", ROUTERS)
def test_parameters_are_the_kernel_and_no_more(name):
    want = {"hash": set(), "random": set(), "noisy_top_k": {"kernel", "spread"}}.get(name, {"kernel"})
    parameters = nnx.state(make(name), nnx.Param)
    assert set(parameters) == want
    assert {a.shape for a in jax.tree.leaves(parameters)} <= {(D, E)}


def test_a_sigmoid_routers_bias_is_state_that_moves_against_the_load():
    router = make("sigmoid", filled=False, bias_update_rate=0.01)
    assert isinstance(router.bias, RouterState)
    router.after_step(jnp.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.1]), jnp.float32(0))
    np.testing.assert_allclose(router.bias[...], [-0.01, 0.01, 0.01, 0.01, 0.01, 0.01], rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda router: (router(X).weights ** 2).sum()))(router)
    np.testing.assert_array_equal(gradient.bias[...], np.zeros(E))


def test_a_sigmoid_routers_options_reach_its_scores_and_its_bias():
    router = make("sigmoid", filled=False, bias_update_rate=0.01, center_bias=True)
    router.after_step(jnp.array([1, 0, 0, 0, 0, 0.0]), jnp.float32(0.5))
    np.testing.assert_allclose(router.bias[...], [-0.05 / 3] + [0.01 / 3] * 5, rtol=1e-6)
    router = make("sigmoid", score_function="sqrtsoftplus", renormalize=False)
    router.bias[...] = jnp.zeros(E)
    got, logits = route(router, X), logits_of(X, router.kernel[...])
    want = np.sort(reference.sqrtsoftplus(np.asarray(logits)), axis=-1)[..., :-3:-1]
    np.testing.assert_allclose(got.weights, want, rtol=1e-5)


def test_a_sigmoid_routers_bias_changes_the_choice_but_not_the_probabilities():
    router = make("sigmoid", filled=False)
    before = route(router, X)
    router.bias[...] = jnp.array([0.0, 0, 0, 0, 9, 9])
    after = route(router, X)
    assert set(np.unique(after.experts)) == {4, 5}
    np.testing.assert_array_equal(before.probs, after.probs)


def test_a_relu_routers_coefficient_is_state_that_moves_towards_k_experts_a_token():
    router = make("relu", filled=False, l1_reg_coeff_init=0.01, l1_reg_coeff_multiplier=2.0)
    assert isinstance(router.l1_reg_coeff, RouterState)
    for load, want in ((jnp.full(E, 0.5), 0.02), (jnp.full(E, 2 / E), 0.02), (jnp.full(E, 0.3), 0.01)):
        router.after_step(load, jnp.float32(0))
        np.testing.assert_allclose(router.l1_reg_coeff[...], want, rtol=1e-6)
    got = route(router, X)
    np.testing.assert_allclose(got.sparsity_weight, np.full(G, 0.01 * E / K), rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda router: losses.sparsity_loss(router(X))))(router)
    assert gradient.l1_reg_coeff[...] == 0
    assert np.any(gradient.kernel[...])


def test_a_fresh_relu_router_gives_a_token_half_of_the_experts():
    x = draw(0, 1, 2000, D)
    router = ROUTERS["relu"](D, 64, 4, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(metrics.experts_per_token(route(router, x)), 32, rtol=0.05)


def test_a_dense_routers_temperature_is_fixed_learnt_or_annealed():
    fixed, learnt, annealed = (
        DenseRouter(D, E, temperature=2.0, rngs=nnx.Rngs(0), **options)
        for options in ({}, {"learn_temperature": True}, {"final_temperature": 0.5})
    )
    want = jax.nn.softmax(logits_of(X, fixed.kernel[...]) / 2, axis=-1)
    for router in (fixed, learnt, annealed):
        np.testing.assert_allclose(run(router, X).probs, want, rtol=1e-5)
    assert set(nnx.state(fixed, nnx.Param)) == {"kernel"}
    assert set(nnx.state(learnt, nnx.Param)) == {"kernel", "log_temperature"}

    def slope(router):
        return jax.jit(jax.grad(lambda router: (router(X).gates ** 2).sum()))(router).log_temperature[...]

    assert slope(learnt) != 0
    assert slope(annealed) == 0
    # From 2 to 0.5 halfway is 1; the fixed one stays.
    for router, temperature in ((fixed, 2), (annealed, 1)):
        router.after_step(jnp.ones(E) / E, jnp.float32(0.5))
        got = run(router, X)
        np.testing.assert_allclose(got.probs, jax.nn.softmax(got.logits / temperature, axis=-1), rtol=1e-5)


def test_a_soft_router_equals_a_loop():
    router = reference.randomly_filled(lambda: SoftRouter(D, E, 2, rngs=nnx.Rngs(0)))
    got = run(router, X)
    p = {"router": router.kernel, "scale": router.scale}
    want = reference.soft_routing({k: np.asarray(v[...], np.float64) for k, v in p.items()}, np.asarray(X, np.float64))
    np.testing.assert_allclose(got.dispatch, want[0], rtol=1e-4)
    np.testing.assert_allclose(got.combine, want[1], rtol=1e-4)


def test_a_soft_router_begins_at_its_scale_and_bears_tokens_of_zeros():
    router = SoftRouter(D, E, 2, scale=10.0, rngs=nnx.Rngs(0))
    assert router.scale[...] == 10
    blank = jnp.zeros((1, 3, D))
    np.testing.assert_allclose(run(router, blank).dispatch, np.full((1, 3, E, 2), 1 / 3), rtol=1e-6)
    gradients = jax.jit(jax.grad(lambda router, x: (router(x).combine ** 2).sum(), argnums=(0, 1)))(router, blank)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(gradients))


# Precision


@pytest.mark.parametrize("name", slow_but_for(ROUTERS, "softmax_top_k", "sigmoid", "expert_choice", "hash"))
def test_bfloat16_tokens_are_routed_in_float32(name):
    router, x = make(name), X.astype(jnp.bfloat16)
    got, want = (route(router, a, 3, train=True, seed=0) for a in (x, x.astype(jnp.float32)))
    assert all(a.dtype != jnp.bfloat16 for a in jax.tree.leaves(got))
    assert got.weights.dtype == got.logits.dtype == got.probs.dtype == jnp.float32
    jax.tree.map(np.testing.assert_array_equal, got, want)  # not one bit less


@pytest.mark.parametrize("name", [*LEARNT, "dense", "soft"])
def test_logits_are_multiplied_at_the_highest_precision(name):
    if name == "dense":
        router = DenseRouter(D, E, rngs=nnx.Rngs(0))
    elif name == "soft":
        router = SoftRouter(D, E, 2, rngs=nnx.Rngs(0))
    else:
        router = partial(make(name), capacity=3)
    jaxpr = str(jax.make_jaxpr(lambda x: router(x))(X))
    assert jaxpr.count("dot_general") >= 1
    assert jaxpr.count("dot_general") == jaxpr.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")
