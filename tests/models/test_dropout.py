"""Dropout keeps its share, the mean, and with no key everything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.models.dropout import dropout


def test_it_zeroes_the_rate_and_keeps_the_mean():
    x = jax.jit(dropout, static_argnums=2)(jax.random.key(0), jnp.ones((500, 400)), 0.1)
    np.testing.assert_allclose(np.unique(x), [0, 65536 / (65536 - 6554)], rtol=1e-6)
    # 200,000 draws: the share's deviation is 0.0007.
    np.testing.assert_allclose(np.mean(x == 0), 0.1, atol=0.003)
    np.testing.assert_allclose(np.mean(x), 1, atol=0.003)


def test_without_a_key_or_a_rate_nothing_happens():
    x = jnp.ones(3)
    assert dropout(None, x, 0.5) is x
    assert dropout(jax.random.key(0), x, 0.0) is x


@pytest.mark.parametrize("rate", [0.9999, 0.99999, 0.999999])
def test_a_rate_next_to_1_keeps_the_mean_and_drops_nearly_all(rate):
    y = np.asarray(jax.jit(dropout, static_argnums=2)(jax.random.key(0), jnp.ones(2**22), rate))
    assert 0 < (y > 0).mean() < 2e-4
    np.testing.assert_allclose(np.unique(y[y > 0]), 65536 / max(round(65536 * (1 - rate)), 1))
