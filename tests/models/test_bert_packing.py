"""Packing takes the padding out and puts it back; what does not fit is cut; gradients go the same ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import randomly_filled

from moejax import load_balance_loss
from moejax.config import make_config
from moejax.models import build_model
from moejax.models.bert.packing import fitting, pack, pack_ids, packing, unpack

MASK = jnp.array([[True, True, False], [True, False, False], [True, True, True]])


def test_a_packing_by_hand():
    where = packing(MASK, 8)
    np.testing.assert_array_equal(where.choice_of_row, [0, 1, 3, 6, 7, 8, -1, -1])
    np.testing.assert_array_equal(where.row_of_choice.reshape(3, 3), [[0, 1, -1], [2, -1, -1], [3, 4, 5]])
    ids = jnp.arange(10, 19).reshape(3, 3)
    np.testing.assert_array_equal(pack_ids(ids, where), [[10, 11, 13, 16, 17, 18, 0, 0]])
    np.testing.assert_array_equal(pack_ids(ids, None), ids)


def test_what_does_not_fit_is_cut_from_the_end():
    where = packing(MASK, 4)
    np.testing.assert_array_equal(where.choice_of_row, [0, 1, 3, 6])
    np.testing.assert_array_equal(where.row_of_choice.reshape(3, 3), [[0, 1, -1], [2, -1, -1], [3, -1, -1]])


@pytest.mark.parametrize("rows", [6, 8, 20])
def test_there_and_back(rows):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 2)), jnp.float32)

    def both(x):
        where = packing(MASK, rows)
        return pack(x, where), unpack(pack(x, where), where, 3)

    packed, back = jax.jit(both)(x)
    assert packed.shape == (1, min(rows, 9), 2)
    np.testing.assert_array_equal(packed[0, :6], np.asarray(x)[np.asarray(MASK)])
    np.testing.assert_array_equal(packed[0, 6:], 0)
    np.testing.assert_array_equal(back, x * MASK[..., None])
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(both(x)[1] ** 2)))(x)
    np.testing.assert_allclose(gradient, 2 * x * MASK[..., None], rtol=1e-6)
    assert pack(x, None) is x
    assert unpack(x, None, 3) is x


def test_of_too_many_the_longest_examples_lose_their_last_ones():
    np.testing.assert_array_equal(fitting(MASK, 5), [[1, 1, 0], [1, 0, 0], [1, 1, 0]])
    np.testing.assert_array_equal(packing(MASK, 5).choice_of_row, [0, 1, 3, 6, 7])
    np.testing.assert_array_equal(fitting(MASK, 3)[:, 0], [1, 1, 1])  # no example is lost as a whole
    np.testing.assert_array_equal(fitting(MASK, 6), MASK)


LONGEST = 6
PIECES = np.array([[1, 5, 2, 7, 2, 0], [1, 6, 8, 2, 9, 2], [1, 4, 2, 3, 2, 0], [1, 7, 7, 2, 5, 2]])
SECOND = np.array([[0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1]], bool)


def classifier(room):
    """A model of one block with a sparse layer; of every room the same parameters."""
    model = dict(name="encoder", width=8, depth=1, heads=2, moe_every=1, room=room, dropout=0.0)
    moe = dict(layer="sparse", num_experts=3, k=2, hidden=12, dispatch="grouped")
    config = make_config(data=dict(name="mrpc_pieces", vocabulary=30), model=model, moe=moe)
    return randomly_filled(lambda: build_model(config, 2, nnx.Rngs(0)), scale=0.4)


@jax.jit
def gradient_of(model, pieces, goal):
    """A number made of the encoder's output, by `goal`, and of the logits; its gradient; and what it was made of."""

    def number(model):
        x, [routing] = model.encoder(pieces, jnp.asarray(SECOND), train=True)
        logits, _ = model.one_order(pieces, jnp.asarray(SECOND), train=True, key=None)
        return jnp.sum(x * goal) + jnp.sum(logits**2), (
            x * (goal != 0),
            logits,
            routing.choices.sum((0, 1)),
            load_balance_loss(routing, over="sequence"),  # a sequence is a pair, packed or not
        )

    return jax.grad(number, has_aux=True)(model)


@pytest.mark.parametrize(
    "room", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, LONGEST + 1) if n != 2)]
)
def test_what_was_cut_is_as_if_it_had_never_been_there(room):
    seen = np.asarray(fitting(jnp.asarray(PIECES != 0), len(PIECES) * room))
    assert seen.sum() == min(4 * room, 22)
    goal = jnp.asarray(np.random.default_rng(1).normal(size=(*PIECES.shape, 8)), jnp.float32) * seen[..., None]
    got = gradient_of(classifier(room), jnp.asarray(PIECES), goal)
    want = gradient_of(classifier(LONGEST), jnp.asarray(np.where(seen, PIECES, 0)), goal)
    for ours, reference in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-5, atol=1e-5 * (1 + np.abs(reference).max()))
