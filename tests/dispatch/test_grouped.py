"""Dropless dispatch: tokens sorted by expert, by hand and against a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import chosen

from moejax.dispatch import grouped_dispatch
from moejax.dispatch.index_tables import sorted_tables
from moejax.kernels.grouped_matmul import grouped_matmul
from moejax.routing import assign, mask_tokens, softmax_top_k

few = settings(max_examples=25)
G, T, E, D, H = 2, 5, 6, 3, 4


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_index_tables_sort_the_choices_by_expert_and_within_it_by_token():
    # Choices in order, token by token: 1 0 | 1 2 | 0 2, so expert 0 has choices 1 and 4, 1 has 0 and 2, 2 has 3 and 5.
    experts = jnp.array([[1, 0], [1, 2], [0, 2], [-1, -1]])
    tables, groups = sorted_tables(experts, 4, jnp.full((4, 2), 0.5))
    np.testing.assert_array_equal(groups, [[0, 2, 4, 6], [2, 2, 2, 0]])
    np.testing.assert_array_equal(tables.choice_of_row, [1, 4, 0, 2, 3, 5, -1, -1])
    np.testing.assert_array_equal(tables.row_of_choice, [[2, 0], [3, 4], [1, 5], [-1, -1]])
    np.testing.assert_allclose(tables.weights, np.full((4, 2), 0.5))


def test_dropped_choices_become_empty_rows():
    tables, groups = sorted_tables(jnp.array([[0], [-1], [1]]), 2, jnp.ones((3, 1)))
    np.testing.assert_array_equal(groups, [[0, 1], [1, 1]])
    np.testing.assert_array_equal(tables.choice_of_row, [0, 2, -1])
    np.testing.assert_array_equal(tables.row_of_choice, [[0], [-1], [1]])


def test_experts_get_each_row_once_and_nothing_else():
    # Two tokens, both to expert 1 first: rows 10 and 20 are expert 1's, preceded by expert 0's 20.
    seen = {}

    def experts(rows, groups):
        seen.update(rows=rows, sizes=groups.sizes)
        return rows

    routing = chosen([[[1, -1], [1, 0]]], 2)
    y = grouped_dispatch(experts, jnp.array([[[10.0], [20.0]]]), routing)
    np.testing.assert_array_equal(seen["rows"], [[20], [10], [20], [0]])
    np.testing.assert_array_equal(seen["sizes"], [1, 2])
    np.testing.assert_allclose(y, [[[5], [20]]])  # .5 · 10, and .5 · 20 twice


@jax.jit(static_argnames=("k", "capacity"))
def run(x, logits, w, mask, k, capacity=None):
    routing = mask_tokens(softmax_top_k(logits, k), mask)
    routing = routing if capacity is None else assign(routing, capacity)
    return grouped_dispatch(lambda rows, groups: grouped_matmul(rows, w, groups), x, routing), routing


@few
@given(st.integers(0, 1000), st.sampled_from([(1, None), (3, None), (2, 1)]))
def test_grouped_equals_a_loop_over_tokens(seed, size):
    x, logits, w = draw(seed, G, T, D), 2 * draw(seed + 1, G, T, E), draw(seed + 2, E, D, H)
    mask = np.random.default_rng(seed).random((G, T)) < 0.7
    y, routing = run(x, logits, w, mask, *size)
    want = reference.sparse_apply(lambda e, token: token @ w[e], x.astype(np.float64), routing)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(y)[~mask], 0)


def test_nothing_but_padding_gives_zeros():
    y, _ = run(draw(0, G, T, D), draw(1, G, T, E), draw(2, E, D, H), np.zeros((G, T), bool), 3)
    np.testing.assert_array_equal(y, np.zeros((G, T, H)))


def test_a_token_that_is_no_number_spoils_no_other():
    x, logits = draw(0, G, T, D), draw(1, G, T, E)
    x[0, 1] = logits[0, 1] = np.nan
    y = np.asarray(run(x, logits, draw(2, E, D, H), np.ones((G, T), bool), 3)[0])
    bad = np.zeros((G, T), bool)
    bad[0, 1] = True
    assert np.isnan(y[bad]).all()
    assert np.isfinite(y[~bad]).all()
