"""Replay: given experts are weighed as if the router had chosen them, by every router, dispatch and transformation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import draw, log

from moejax import MLP, MeshAxes, SparseMoE, routing, ungroup
from moejax.routers import ROUTERS, Context, Router

few = settings(max_examples=25)
G, T, E, D, K = 2, 5, 4, 3, 2
TOKEN_CHOICE = [name for name, router in ROUTERS.items() if router.token_choice]
PROBS = [[[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1]]]
GIVEN = jnp.array([[[2, 0], [1, -1], [-1, -1]]])


def make(name, **options):
    k = 1 if name == "switch" else K
    return reference.randomly_filled(lambda: ROUTERS[name](D, E, k, rngs=nnx.Rngs(0), **options))


def some_experts(seed, k=K, shape=(G, T)):
    """Different experts for each token in any order, some of them -1."""
    rng = np.random.default_rng(seed)
    experts = rng.random((*shape, E)).argsort(-1)[..., :k]
    return np.where(rng.random(experts.shape) < 0.2, -1, experts).astype(np.int32)


def shares(values):
    """Of a token's experts, which may be none."""
    return values / values.sum() if len(values) else values


def kept(values):
    return values


# By hand


def test_renormalised_weights_are_shares_of_the_given_experts():
    want = [[[0.2 / 0.7, 0.5 / 0.7], [1, 0], [0, 0]]]
    for choice in (routing.softmax_top_k, routing.top_k_softmax):
        got = choice(log(PROBS), 2, given=GIVEN)
        np.testing.assert_array_equal(got.experts, GIVEN)
        np.testing.assert_allclose(got.weights, want, rtol=1e-6)
        np.testing.assert_allclose(got.probs, PROBS, rtol=1e-6)


def test_other_weights_are_the_probabilities_themselves():
    got = routing.softmax_top_k(log(PROBS), 2, renormalize=False, given=GIVEN)
    np.testing.assert_allclose(got.weights, [[[0.2, 0.5], [0.2, 0], [0, 0]]], rtol=1e-6)


def test_routers_that_learn_nothing_weigh_the_given_experts_alike():
    want = [[[0.5, 0.5], [1, 0], [0, 0]]]
    for got in (
        routing.random_routing(jax.random.key(0), 1, 3, 3, 2, given=GIVEN),
        routing.hash_routing(jnp.zeros((1, 3), int), 3, 2, given=GIVEN),
    ):
        np.testing.assert_array_equal(got.experts, GIVEN)
        np.testing.assert_array_equal(got.weights, want)


def test_experts_whose_probabilities_vanish_still_share_all_weight():
    value, gradient = jax.value_and_grad(
        lambda logits: routing.softmax_top_k(logits, 2, given=jnp.array([[[1, 2]]])).weights[0, 0, 0]
    )(jnp.array([[[500.0, 0.0, 0.0]]]))
    np.testing.assert_allclose(value, 0.5)
    np.testing.assert_allclose(gradient, [[[0, 0.25, -0.25]]], atol=1e-6)


# Every router


@jax.jit
def twice(router, x, mask, given=None):
    """A routing in training, and the same of the experts that it chose, or of those given."""
    first = router(x, 2, Context(True, jax.random.key(0), mask))
    experts = first.experts if given is None else given
    return first, router(x, 2, Context(True, jax.random.key(0), mask, given=experts))


@pytest.mark.parametrize("name", TOKEN_CHOICE)
def test_a_routers_own_choice_replayed_is_the_same_to_the_last_bit(name):
    first, second = twice(make(name, priority="weight"), draw(0, G, T, D), jnp.asarray(np.arange(T) < [[5], [3]]))
    assert (first.slots < 0).any()
    jax.tree.map(np.testing.assert_array_equal, second, first)


# What each weighs by, at evaluation: a function of a token's logits, and what becomes of those of its experts.
WEIGHTS = {
    "softmax_top_k": (reference.softmax, shares),
    "top_k_softmax": (reference.softmax, shares),
    "switch": (reference.softmax, kept),
    "noisy_top_k": (reference.softmax, shares),
    "vmoe": (reference.softmax, kept),
    "uniform": (reference.softmax, kept),
    "sigmoid": (lambda logits: 1 / (1 + np.exp(-logits)), shares),
    "sinkhorn": (reference.softmax, kept),
}


def weights_of(name, logits, experts):
    score, among = WEIGHTS[name]
    out = np.zeros(experts.shape)
    for g, t in np.ndindex(G, T):
        chosen = experts[g, t] >= 0
        out[g, t, chosen] = among(score(logits[g, t])[experts[g, t, chosen]])
    return out


@partial(jax.jit, static_argnums=0)
def weights_and_gradient(name, router, x, given, cotangent):
    def total(router, x):
        got = router(x, None, Context(given=given))
        return (got.weights * cotangent).sum(), got

    return jax.grad(total, argnums=(0, 1), has_aux=True)(router, x)


@pytest.mark.parametrize("name", WEIGHTS)
@few
@given(st.integers(0, 1000))
def test_weights_and_their_gradient_equal_a_loop_over_tokens(name, seed):
    router, x = make(name), np.asarray(draw(seed, G, T, D))
    experts = some_experts(seed, k=router.k)
    rng = np.random.default_rng(seed)
    cotangent, direction = rng.normal(size=experts.shape), rng.normal(size=(D, E))
    (by_router, _), got = weights_and_gradient(name, router, x, experts, cotangent.astype(np.float32))
    x, kernel = np.asarray(x, np.float64), np.asarray(router.kernel[...], np.float64)
    np.testing.assert_array_equal(got.experts, experts)
    np.testing.assert_allclose(got.weights, weights_of(name, x @ kernel, experts), rtol=1e-4, atol=1e-6)
    ahead, behind = (
        (weights_of(name, x @ (kernel + step * direction), experts) * cotangent).sum() for step in (1e-5, -1e-5)
    )
    slope = (np.asarray(by_router.kernel[...], np.float64) * direction).sum()
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, rtol=1e-3, atol=1e-4)


def test_the_selection_probability_does_not_depend_on_what_is_given():
    first, second = twice(make("noisy_top_k"), draw(0, G, T, D), jnp.ones((G, T), bool), some_experts(0))
    np.testing.assert_array_equal(second.selection_probability, first.selection_probability)
    assert (second.experts != first.experts).any()


# Layers


def layer_of(dispatch, router="softmax_top_k", factor=1.0, **options):
    options = {"group_size": 4} | options | ({} if dispatch == "grouped" else {"capacity_factor": factor})
    return reference.randomly_filled(
        lambda: SparseMoE(
            D, E, lambda rngs: MLP(D, 6, rngs=rngs), dispatch=dispatch, router=router, rngs=nnx.Rngs(0), **options
        )
    )


@jax.jit
def call(layer, x, given=None, mask=None):
    return layer(x, train=True, given=given, mask=mask)


@pytest.mark.parametrize("dispatch", ["einsum", "gather", "grouped"])
def test_a_layers_routing_replays_in_itself_and_in_another_layer(dispatch):
    # Five tokens twice, in groups of four: regrouped, and filled up with padding.
    x, mask = draw(1, G, T, D), jnp.asarray(np.arange(T) < [[5], [4]])
    layer, other = layer_of(dispatch), layer_of(dispatch, "sigmoid")
    y, first = call(layer, x, mask=mask)
    experts = ungroup(first.experts, x.shape[:-1])
    again, second = call(layer, x, experts, mask)
    np.testing.assert_array_equal(again, y)
    jax.tree.map(np.testing.assert_array_equal, second, first)
    _, third = call(other, x, np.asarray(experts, np.int64), mask)
    np.testing.assert_array_equal(third.experts, first.experts)
    if dispatch != "grouped":
        np.testing.assert_array_equal(third.slots, first.slots)
    assert np.abs(third.weights - first.weights).max() > 1e-2


@pytest.mark.parametrize("dispatch", ["einsum", "gather", "grouped"])
def test_given_experts_equal_a_loop_over_tokens_and_so_do_many_under_vmap(dispatch):
    layer, x = layer_of(dispatch, group_size=0), draw(2, G, T, D)
    many = np.stack([some_experts(seed) for seed in range(2)])
    together, routings = jax.jit(jax.vmap(lambda given: layer(x, given=given)))(many)
    p = {"up": layer.experts.up.kernel, "up_bias": layer.experts.up.bias}
    p |= {"down": layer.experts.down.kernel, "down_bias": layer.experts.down.bias}
    p = {name: np.asarray(value[...], np.float64) for name, value in p.items()}
    for i, experts in enumerate(many):
        got = jax.tree.map(lambda a, i=i: a[i], routings)
        np.testing.assert_array_equal(got.experts, experts)
        want = reference.sparse_apply(partial(reference.mlp, p), np.asarray(x, np.float64), got)
        np.testing.assert_allclose(together[i], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dispatch", ["gather", "grouped"])
def test_on_a_mesh_it_is_the_same(dispatch):
    layer, x = layer_of(dispatch, mesh_axes=MeshAxes(("dp", "ep"), "ep"), group_size=0), draw(3, 8, T, D)
    experts = some_experts(0, shape=(8, T))
    y, _ = call(layer, x, experts)
    with jax.set_mesh(jax.make_mesh((4, 2), ("dp", "ep"))):
        on_mesh, got = call(layer, x, experts)
    np.testing.assert_array_equal(got.experts, experts)
    np.testing.assert_allclose(on_mesh, y, rtol=1e-5, atol=1e-6)


def test_a_token_of_relu_has_any_number_of_experts_and_so_a_replay():
    layer, x = layer_of("grouped", "relu"), draw(1, G, T, D)
    y, first = call(layer, x)
    assert 0 < (np.asarray(first.experts) < 0).mean() < 1
    again, second = call(layer, x, ungroup(first.experts, x.shape[:-1]))
    np.testing.assert_array_equal(again, y)
    np.testing.assert_array_equal(second.experts, first.experts)


# Experts that cannot be


IMPOSSIBLE = [([1, 1], r"\[1, 1\]"), ([0, E], r"\[0, 4\]")]


@pytest.mark.parametrize(("experts", "said"), IMPOSSIBLE)
def test_experts_that_a_token_cannot_have_are_one_sentence(experts, said):
    router, x, wrong = make("softmax_top_k"), draw(0, G, T, D), some_experts(0)
    wrong[1, 2] = experts
    with pytest.raises(ValueError, match=rf"^given holds the experts {said} for a token; give different ones from 0 t"):
        router(x, None, Context(given=jnp.asarray(wrong)))
    router(x, None, Context(given=jnp.asarray(wrong), mask=jnp.asarray(np.arange(T) < [[5], [2]])))  # padding has none


@pytest.mark.parametrize(("experts", "said"), IMPOSSIBLE)
@pytest.mark.parametrize("dispatch", ["einsum", "gather", "grouped"])
def test_under_jit_they_give_that_token_no_number_and_touch_no_other(dispatch, experts, said):
    layer, x = layer_of(dispatch, factor=4.0), draw(0, G, T, D)
    wrong, right = some_experts(0), some_experts(0)
    right[1, 2], wrong[1, 2] = [-1, -1], experts
    (y, _), (want, _) = (call(layer, x, a) for a in (wrong, right))
    assert np.isnan(y[1, 2]).all()
    others = np.ones((G, T), bool)
    others[1, 2] = False
    np.testing.assert_allclose(y[others], want[others], rtol=1e-5, atol=1e-6)


def test_a_router_that_chooses_for_itself_says_so():
    class Stubborn(Router):
        def choose(self, x, context):
            return routing.softmax_top_k(self.logits(x, context), self.k)

    with pytest.raises(ValueError, match=r"^given holds experts, but Stubborn chooses others; its `choose` must pass"):
        Stubborn(D, E, K, rngs=nnx.Rngs(0))(draw(0, G, T, D), 2, Context(given=jnp.asarray(some_experts(0))))
