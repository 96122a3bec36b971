"""Hash and random routing: fixed by id or drawn by lot, even over the experts, and without anything to learn."""

import jax
import numpy as np
import pytest

from moejax import routing

hash_routing = jax.jit(routing.hash_routing, static_argnums=(1, 2, 3))
random_routing = jax.jit(routing.random_routing, static_argnums=(1, 2, 3, 4))


def experts_of(ids, num_experts=8, k=2, seed=0):
    return np.asarray(hash_routing(np.asarray(ids, np.int32), num_experts, k, seed).experts)


def test_equal_ids_meet_equal_experts_wherever_they_stand():
    got = experts_of([[5, 7, 5], [7, 5, 30_000]])
    np.testing.assert_array_equal(got[0, 0], got[0, 2])
    np.testing.assert_array_equal(got[0, 0], got[1, 1])
    np.testing.assert_array_equal(got[0, 1], got[1, 0])


def test_the_table_depends_on_the_seed_alone():
    ids = np.arange(200).reshape(1, 200)
    np.testing.assert_array_equal(experts_of(ids), experts_of(ids))
    assert (experts_of(ids) != experts_of(ids, seed=1)).any()


@pytest.mark.parametrize("ids", [np.arange(8000), 64 * np.arange(8000), -np.arange(8000)], ids=["near", "far", "below"])
@pytest.mark.parametrize("k", [1, 2])
def test_ids_spread_evenly_over_the_experts(ids, k):
    # 4096 rows fall on 8 experts: k · 512 each, with a deviation of at most √(4096 · k/8 · (1 - k/8)) < 28.
    experts = experts_of(ids.reshape(1, -1), 8, k)
    share = np.bincount(experts.ravel(), minlength=8) / experts.size
    np.testing.assert_allclose(share, np.full(8, 1 / 8), atol=0.025)


@pytest.mark.parametrize(("num_experts", "k"), [(1, 1), (5, 2), (8, 8)])
def test_experts_of_a_token_differ_and_weigh_alike(num_experts, k):
    for got in (
        hash_routing(np.arange(60, dtype=np.int32).reshape(2, 30), num_experts, k, 0),
        random_routing(jax.random.key(0), 2, 30, num_experts, k),
    ):
        assert got.experts.shape == (2, 30, k)
        assert all(len(set(token)) == k for token in np.asarray(got.experts).reshape(-1, k).tolist())
        assert 0 <= got.experts.min() <= got.experts.max() < num_experts
        np.testing.assert_allclose(got.weights, np.full((2, 30, k), 1 / k))
        np.testing.assert_allclose(got.probs, np.full((2, 30, num_experts), 1 / num_experts))
        np.testing.assert_array_equal(got.logits, np.zeros((2, 30, num_experts)))


def test_a_key_is_one_lot_and_another_key_another():
    first, again, other = (random_routing(jax.random.key(seed), 1, 50, 8, 2).experts for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(np.asarray(first) != other)


@pytest.mark.parametrize("k", [1, 3])
def test_lots_are_even_over_the_experts(k):
    # 6000 tokens: a share k/6 each, with a deviation of at most √(1/4 / 6000) = .0065.
    experts = np.asarray(random_routing(jax.random.key(0), 2, 3000, 6, k).experts)
    np.testing.assert_allclose(np.bincount(experts.ravel(), minlength=6) / 6000, np.full(6, k / 6), atol=0.03)
