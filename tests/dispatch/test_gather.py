"""Dispatch by gather: its tables and the two moves of rows by hand and against loops, and what it never does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moejax.dispatch import einsum_dispatch, gather_dispatch, grouped_dispatch
from moejax.dispatch.index_tables import IndexTables, inverse, slot_tables
from moejax.dispatch.rows import combine_rows, take_tokens
from moejax.routing import ExpertChoiceRouting, TopKRouting, assign, expert_choice, softmax_top_k

few = settings(max_examples=25)
N, K, R, D = 4, 2, 7, 3


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_inverse_of_a_table_points_back_and_skips_holes():
    np.testing.assert_array_equal(inverse(jnp.array([2, -1, 0, 4]), 6), [2, -1, 0, -1, 3, -1])


@few
@given(st.permutations(range(6)), hnp.arrays(bool, 6))
def test_the_inverse_of_the_inverse_is_the_table(order, used):
    table = np.where(used, order, -1).astype(np.int32)
    np.testing.assert_array_equal(inverse(inverse(jnp.asarray(table), 6), 6), table)


def test_index_tables_of_token_choice_by_hand():
    # Two experts of two slots, two groups of two tokens: rows 0 1 | 2 3 are expert 0's, 4 5 | 6 7 expert 1's.
    routing = TopKRouting(
        logits=jnp.zeros((2, 2, 2)),
        probs=jnp.full((2, 2, 2), 0.5),
        experts=jnp.array([[[0, 1], [0, 1]], [[1, 0], [-1, -1]]]),
        weights=jnp.array([[[0.9, 0.1], [0.8, 0.2]], [[0.7, 0.3], [0, 0]]]),
        slots=jnp.array([[[0, 0], [1, -1]], [[0, 0], [-1, -1]]]),
    )
    tables = slot_tables(routing, 2)
    np.testing.assert_array_equal(tables.row_of_choice, [[0, 4], [1, -1], [6, 2], [-1, -1]])
    # Choices are counted token by token: 0 and 1 are token 0's, and so on.
    np.testing.assert_array_equal(tables.choice_of_row, [0, 2, 5, -1, 1, -1, 4, -1])
    np.testing.assert_allclose(tables.weights, [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0, 0]])


def test_index_tables_of_expert_choice_by_hand():
    # One group of three tokens, two experts: expert 0 takes tokens 2 and 0, expert 1 token 2 and nobody.
    routing = ExpertChoiceRouting(
        logits=jnp.zeros((1, 3, 2)),
        probs=jnp.full((1, 3, 2), 0.5),
        tokens=jnp.array([[[2, 0], [2, -1]]]),
        weights=jnp.array([[[0.9, 0.6], [0.1, 0]]]),
    )
    tables = slot_tables(routing, 2)
    np.testing.assert_array_equal(tables.choice_of_row, [4, 0, 5, -1])
    np.testing.assert_array_equal(tables.row_of_choice, [[1, -1], [-1, -1], [0, 2]])
    np.testing.assert_allclose(tables.weights, [[0.6, 0], [0, 0], [0.9, 0.1]])


TABLES = IndexTables(
    choice_of_row=jnp.array([3, -1, 0, 6, -1, 7, 2]),
    row_of_choice=jnp.array([[2, -1], [6, 0], [-1, -1], [3, 5]]),
    weights=jnp.asarray(draw(0, N, K)),
)


@jax.jit
def take_and_pull(x, dy):
    y, pull = jax.vjp(lambda x: take_tokens(x, TABLES), x)
    return y, pull(dy)[0]


@jax.jit
def combine_and_pull(y, weights, dout):
    out, pull = jax.vjp(lambda y, weights: combine_rows(y, TABLES._replace(weights=weights)), y, weights)
    return out, *pull(dout)


def test_taking_tokens_and_its_gradient_equal_loops():
    x, dy = draw(1, N, D), draw(2, R, D)
    y, dx = take_and_pull(x, dy)
    want_y, want_dx = np.zeros((R, D)), np.zeros((N, D))
    for r, choice in enumerate(np.asarray(TABLES.choice_of_row)):
        if choice >= 0:
            want_y[r] = x[choice // K]
            want_dx[choice // K] += dy[r]
    np.testing.assert_array_equal(y, want_y)
    np.testing.assert_allclose(dx, want_dx, rtol=1e-6)


def test_combining_rows_and_its_gradients_equal_loops():
    y, weights, dout = draw(1, R, D), draw(2, N, K), draw(3, N, D)
    got = combine_and_pull(y, weights, dout)
    out, dy, dweights = np.zeros((N, D)), np.zeros((R, D)), np.zeros((N, K))
    for (n, j), r in np.ndenumerate(np.asarray(TABLES.row_of_choice)):
        if r >= 0:
            out[n] += weights[n, j] * y[r]
            dy[r] = weights[n, j] * dout[n]
            dweights[n, j] = y[r] @ dout[n]
    for a, b in zip(got, (out, dy, dweights), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", ["gather", "grouped"])
def test_the_outputs_of_a_token_are_added_up_in_float32(way):
    # 256 + 1 is 256 in bfloat16, whose next number is 258: added up so, five outputs would give 256.
    values = jnp.array([256.0, 1, 1, 1, 1], jnp.bfloat16)
    x, everyone = jnp.ones((1, 1, 1), jnp.bfloat16), jnp.arange(5)[None, None]
    routing = TopKRouting(jnp.zeros((1, 1, 5)), jnp.full((1, 1, 5), 0.2), everyone, jnp.ones((1, 1, 5)))
    if way == "gather":
        y = gather_dispatch(lambda slots: slots * values[:, None, None, None], x, assign(routing, 1), 1)
    else:
        y = grouped_dispatch(lambda rows, sizes: rows * values[:, None], x, routing)
    assert y.dtype == jnp.bfloat16
    assert y[0, 0, 0] == 260


def test_both_can_be_differentiated_twice():
    # A quadratic form of x: its second derivative along v is the form of v, whatever moves the rows.
    def form(x):
        return (combine_rows(take_tokens(x, TABLES), TABLES) ** 2).sum()

    x, v = jnp.asarray(draw(4, N, D)), jnp.asarray(draw(5, N, D))
    curvature = jax.jit(jax.grad(lambda x: jnp.vdot(jax.grad(form)(x), v)))(x)
    np.testing.assert_allclose(np.vdot(curvature, v), 2 * form(v), rtol=1e-5)


@pytest.mark.parametrize("kind", ["token choice", "expert choice"])
def test_gather_equals_a_loop_over_tokens(kind):
    g, t, e, c, d = 2, 5, 3, 2, 4
    x, logits, w = draw(0, g, t, d), draw(1, g, t, e), draw(2, e, d, d)
    top_k = kind == "token choice"

    @jax.jit
    def run(x, logits):
        routing = assign(softmax_top_k(logits, 2), c) if top_k else expert_choice(logits, c)
        return gather_dispatch(lambda slots: jnp.einsum("egcd,edh->egch", slots, w), x, routing, c), routing

    y, routing = run(x, logits)
    want = reference.sparse_apply(lambda e, token: token @ w[e], x.astype(np.float64), routing)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


def test_fewer_slots_than_were_given_drop_what_has_a_later_one_as_einsum_does():
    x, logits = jnp.asarray(draw(1, 2, 6, D)), jnp.asarray(draw(2, 2, 6, 4))
    routing = assign(softmax_top_k(logits, K), 6)
    want = einsum_dispatch(lambda slots: 2 * slots, x, routing, 2)
    np.testing.assert_allclose(gather_dispatch(lambda slots: 2 * slots, x, routing, 2), want, rtol=1e-5, atol=1e-6)


def test_a_routing_that_a_dispatch_has_no_slots_for_is_one_sentence():
    x, logits = jnp.ones((1, 4, D)), jnp.asarray(draw(0, 1, 4, 3))
    for dispatch in (einsum_dispatch, gather_dispatch):
        with pytest.raises(
            ValueError, match=r"^the routing has no slots; give its choices some, as moejax.routing.assi"
        ):
            dispatch(lambda slots: slots, x, softmax_top_k(logits, K), 2)
        with pytest.raises(ValueError, match=r"^capacity is 3, but each expert chose 2 tokens; give that"):
            dispatch(lambda slots: slots, x, expert_choice(logits, 2), 3)


def test_a_token_that_is_no_number_spoils_no_other():
    x, logits, w = draw(0, 1, 4, 3), draw(1, 1, 4, 2), draw(2, 2, 3, 3)
    x[0, 1] = logits[0, 1] = np.nan

    @jax.jit
    def run(x, logits):
        routing = assign(softmax_top_k(logits, 2), 4)
        return gather_dispatch(lambda slots: jnp.einsum("egcd,edh->egch", slots, w), x, routing, 4)

    y = np.asarray(run(x, logits))
    assert np.isnan(y[0, 1]).all()
    assert np.isfinite(y[0, [0, 2, 3]]).all()
