"""Packing takes the padding out and puts it back; what does not fit is cut; gradients go the same ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.models.bert.packing import pack, pack_ids, packing, unpack

MASK = jnp.array([[True, True, False], [True, False, False], [True, True, True]])


def test_a_packing_by_hand():
    where = packing(MASK, 8)
    np.testing.assert_array_equal(where.choices, [0, 1, 3, 6, 7, 8, -1, -1])
    np.testing.assert_array_equal(where.places.reshape(3, 3), [[0, 1, -1], [2, -1, -1], [3, 4, 5]])
    ids = jnp.arange(10, 19).reshape(3, 3)
    np.testing.assert_array_equal(pack_ids(ids, where), [[10, 11, 13, 16, 17, 18, 0, 0]])
    np.testing.assert_array_equal(pack_ids(ids, None), ids)


def test_what_does_not_fit_is_cut_from_the_end():
    where = packing(MASK, 4)
    np.testing.assert_array_equal(where.choices, [0, 1, 3, 6])
    np.testing.assert_array_equal(where.places.reshape(3, 3), [[0, 1, -1], [2, -1, -1], [3, -1, -1]])


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
