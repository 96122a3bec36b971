"""Laws that hold for every router by name: who sits where, what permuting changes, what padding does not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from moejax import routing as functions
from moejax.dispatch import gather_dispatch
from moejax.routers import ROUTERS, Context
from moejax.routing import ExpertChoiceRouting

few = settings(max_examples=25)
seeds = st.integers(0, 1000)
G, T, E, D = 2, 6, 5, 4  # five experts: no power of two

TOKEN_CHOICE = [name for name in ROUTERS if name != "expert_choice"]
# Routers whose logits have one column an expert, without noise.
LEARNT = ["softmax_top_k", "top_k_softmax", "switch", "noisy_top_k", "vmoe", "sigmoid", "sinkhorn", "relu"]
SUM_TO_1 = ["softmax_top_k", "top_k_softmax", "noisy_top_k", "sigmoid", "hash", "random"]

# Number of experts, k ("switch" has 1 whatever it says here), capacity, tokens, priority.
COMMON = (E, 2, 2, T, "position")
EDGES = [(3, 2, 1, T, "weight"), (E, E, T, T, "position"), (1, 1, 1, 1, "position")]
SIZES = [(name, *COMMON) for name in ROUTERS]
SIZES += [(name, *size) for name in ("softmax_top_k", "expert_choice") for size in EDGES]
SIZES += [pytest.param("sigmoid", *size, marks=pytest.mark.slow) for size in EDGES]


def make(name, num_experts=E, k=2, seed=0, **options):
    k = 1 if name == "switch" else k
    return reference.randomly_filled(lambda: ROUTERS[name](D, num_experts, k, **options, rngs=nnx.Rngs(0)), seed)


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


IDS = jnp.asarray(np.random.default_rng(0).integers(0, 1000, (G, T)), jnp.int32)


def random_mask(seed, t=T):
    return jnp.asarray(np.random.default_rng(seed).random((G, t)) < 0.6)


@partial(jax.jit, static_argnames="capacity")
def route(router, x, capacity, mask=None, seed=None, ids=None):
    """A routing in training, and all that is derived from it; without a seed, of a router with noise, at evaluation."""
    key = None if seed is None else jax.random.key(seed)
    got = router(x, capacity, Context(train=key is not None or not router.noisy, key=key, mask=mask, ids=ids))
    return got, got.gates, got.choices, got.dispatched


def in_numpy(*args, **options):
    return jax.tree.map(np.asarray, route(*args, **options))


@pytest.mark.parametrize(("name", "num_experts", "k", "capacity", "t", "priority"), SIZES)
def test_who_sits_where(name, num_experts, k, capacity, t, priority):
    @few
    @given(seeds)
    def law(seed):
        scored = {"score_function": "sigmoid" if num_experts == 1 else "softmax"}
        router = make(name, num_experts, k, seed, **(scored if name == "expert_choice" else {"priority": priority}))
        mask = random_mask(seed, t)
        got, gates, choices, dispatched = in_numpy(router, draw(seed, G, t, D), capacity, mask, seed)
        mask, chosen = np.asarray(mask), {"switch": 1, "relu": num_experts}.get(name, k)
        if isinstance(got, ExpertChoiceRouting):
            taken = [[slot for slot in expert if slot >= 0] for expert in got.tokens.reshape(-1, capacity).tolist()]
            assert all(len(set(tokens)) == len(tokens) for tokens in taken)  # a token at most once in an expert
            real = np.repeat(mask.sum(1), num_experts)
            assert [len(tokens) for tokens in taken] == np.minimum(real, capacity).tolist()  # no slot empty in vain
        else:
            assert got.experts.shape == got.weights.shape == got.slots.shape == (G, t, chosen)  # at most k experts
            assert got.slots.max() < capacity
            assert ((got.slots >= 0) <= mask[..., None]).all()  # padding takes no slot
            some = got.logits > 0 if name == "relu" else np.ones((1, 1, chosen), bool)  # a token's choices, of k
            assert ((got.experts >= 0) == mask[..., None] & np.sort(some)[..., ::-1]).all()
            for g in range(G):
                places = [(e, c) for e, c in zip(got.experts[g].flat, got.slots[g].flat, strict=True) if c >= 0]
                assert len(set(places)) == len(places)  # no slot twice
                by = got.weights[g].max(-1).astype(np.float64) if priority == "weight" else None
                np.testing.assert_array_equal(got.slots[g], reference.fill(got.experts[g], capacity, by))
            assert choices.sum(-1).max() <= chosen
        assert choices.max() <= 1  # a token is in an expert at most once
        assert (dispatched <= choices).all()
        assert (dispatched.sum(1) <= capacity).all()
        np.testing.assert_array_equal(gates[~mask], 0)
        np.testing.assert_array_equal(choices[~mask], 0)
        assert (gates >= 0).all()
        assert (gates[dispatched == 0] == 0).all()

    law()


@pytest.mark.parametrize("name", TOKEN_CHOICE)
def test_nothing_is_dropped_when_the_capacity_is_all_tokens(name):
    got, _, choices, dispatched = in_numpy(make(name), draw(0, G, T, D), T, seed=0)
    assert ((got.slots >= 0) == (got.experts >= 0)).all()
    assert (got.experts >= 0).all() == (name != "relu")
    np.testing.assert_array_equal(choices, dispatched)
    np.testing.assert_allclose(got.probs.sum(-1), np.ones((G, T)), rtol=1e-5)


@pytest.mark.parametrize("name", SUM_TO_1)
@few
@given(seeds)
def test_the_weights_of_a_token_sum_to_1(name, seed):
    _, gates, *_ = in_numpy(make(name, seed=seed), draw(seed, G, T, D), T, seed=seed)
    np.testing.assert_allclose(gates.sum(-1), np.ones((G, T)), rtol=1e-5)


@pytest.mark.parametrize("name", LEARNT)
@few
@given(seeds, st.permutations(range(E)))
def test_permuting_experts_permutes_the_routing(name, seed, order):
    router, x, order = make(name, seed=seed), draw(seed, G, T, D), np.array(order)
    permuted = jax.tree.map(lambda a: a[..., order] if a.ndim else a, router)  # of every parameter the last axis is e
    got, gates, *_ = in_numpy(router, x, T, ids=IDS)
    other, other_gates, *_ = in_numpy(permuted, x, T, ids=IDS)
    np.testing.assert_array_equal(np.where(other.experts < 0, -1, order[other.experts]), got.experts)
    np.testing.assert_array_equal(other.slots, got.slots)
    np.testing.assert_allclose(other_gates, gates[..., order], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [*LEARNT, "expert_choice", "hash"])
@few
@given(seeds, st.permutations(range(T)))
def test_permuting_tokens_permutes_a_routing_that_drops_nothing(name, seed, order):
    router, x, order = make(name, seed=seed), draw(seed, G, T, D), np.array(order)
    # Nothing depends on a token's place: expert choice takes three of six whatever their order.
    capacity = 3 if name == "expert_choice" else T
    _, gates, *_ = in_numpy(router, x, capacity, ids=IDS)
    _, other, *_ = in_numpy(router, x[:, order], capacity, ids=IDS[:, order])
    np.testing.assert_allclose(other, gates[:, order], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ROUTERS)
def test_what_padding_holds_does_not_matter(name):
    router, x, mask = make(name), draw(0, G, T, D), random_mask(3)
    other = jnp.where(mask[..., None], x, 9)
    got, gates, *_ = in_numpy(router, x, 2, mask, seed=0)
    got_other, gates_other, *_ = in_numpy(router, other, 2, mask, seed=0)
    np.testing.assert_allclose(gates, gates_other, rtol=1e-4, atol=1e-6)
    sits = "tokens" if isinstance(got, ExpertChoiceRouting) else "slots"
    np.testing.assert_array_equal(getattr(got, sits), getattr(got_other, sits))


@jax.jit
def gradients_of_the_gates(router, x):
    """And of the chance, where there is one: by the router's parameters and by the tokens."""

    def loss(router, x):
        got = router(x, 2, Context(train=True, key=jax.random.key(0), mask=random_mask(1)))
        chance = 0 if getattr(got, "selection_probability", None) is None else got.selection_probability.sum()
        return (got.gates**2).sum() + chance

    return jax.grad(loss, argnums=(0, 1))(router, x)


@pytest.mark.parametrize("name", ROUTERS)
def test_the_output_gives_a_gradient_that_is_finite_even_where_all_experts_tie(name):
    router = make(name)
    tied, apart = (gradients_of_the_gates(router, x) for x in (jnp.zeros((G, T, D)), draw(0, G, T, D)))
    for gradient in jax.tree.leaves((tied, apart)):
        assert np.isfinite(gradient).all()
    assert name in ("hash", "random") or np.any(apart[0].kernel[...])


@pytest.mark.parametrize(
    "name", ["softmax_top_k", "noisy_top_k", "sigmoid", "sinkhorn", "expert_choice", "relu", "hash"]
)
def test_a_routing_is_the_same_under_vmap_and_remat(name):
    router, x, mask = make(name), draw(0, 3, G, T, D), random_mask(0)

    def gates(x):
        return router(x, 2, Context(train=True, key=jax.random.key(0), mask=mask)).gates

    together, again = jax.jit(lambda x: (jax.vmap(gates)(x), jax.checkpoint(gates)(x[0])))(x)
    want = [in_numpy(router, one, 2, mask, seed=0)[1] for one in x]
    np.testing.assert_allclose(together, want, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(again, want[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", LEARNT)
def test_a_token_that_is_no_number_gets_no_number_and_touches_no_other(name):
    router, x, w = make(name), draw(0, 1, T, D), draw(1, E, D, D)
    bad = x.at[0, 2].set(jnp.nan)

    @jax.jit
    def apply(x):
        got = router(x, T, Context(key=jax.random.key(0)))
        return gather_dispatch(lambda slots: jnp.einsum("egcd,edh->egch", slots, w), x, got, T)

    want, got = np.asarray(apply(x)), np.asarray(apply(bad))
    assert np.isnan(got[0, 2]).all()
    np.testing.assert_allclose(got[0, [0, 1, 3, 4, 5]], want[0, [0, 1, 3, 4, 5]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["dense", "token choice", "expert choice", "soft"])
def test_all_four_routings_give_padding_nothing(kind):
    mask, logits = random_mask(0), draw(0, G, T, E)
    got = {
        "dense": lambda: functions.dense_routing(logits, 1.0, mask),
        "token choice": lambda: functions.assign(functions.mask_tokens(functions.softmax_top_k(logits, 2), mask), 2),
        "expert choice": lambda: functions.expert_choice(logits, 3, mask),
        "soft": lambda: functions.soft_routing(logits[..., None], mask),
    }[kind]()
    gates = np.asarray(got.gates)
    np.testing.assert_array_equal(gates[~np.asarray(mask)], 0)
    assert gates[np.asarray(mask)].any()
    np.testing.assert_array_equal(got.mask, mask)
    if kind == "soft":
        np.testing.assert_array_equal(np.asarray(got.dispatch)[~np.asarray(mask)], 0)
