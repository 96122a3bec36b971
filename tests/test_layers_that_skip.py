"""Layers with experts that compute nothing, against loops over tokens, forward and backward."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from test_layers import D, assert_equals_reference, call, make, parameters, tokens

from moejax.layers import SparseMoE

FREE = {"zero_experts": 1, "copy_experts": 1, "constant_experts": 2, "null_experts": 2}


@pytest.mark.parametrize(
    ("dispatch", "factor", "tau"),
    [("einsum", 0.5, 1.0), ("gather", 0.7, 0.5), ("gather", None, 1.0), ("grouped", 2, 1)],
)
def test_experts_that_compute_nothing_equal_a_loop_over_tokens(dispatch, factor, tau):
    options = FREE | {"dispatch": dispatch, "group_size": 8, "zero_computation_tau": float(tau)}
    options |= {} if dispatch == "grouped" else {"eval_capacity_factor": factor}
    layer = make("sparse", 3, seed=3, k=3, **options)
    # Of 3 · 8 choices the 3 experts that compute are meant to get τ to 1.
    slots = 8 if dispatch == "grouped" or factor is None else np.ceil(factor * 24 * tau / (3 * tau + 6))
    kinds = layer.zero_computation
    slow = partial(reference.with_zero_computation, k=3, capacity=slots, kinds=kinds, computing=3)
    routing = assert_equals_reference(layer, tokens(1, 2, 8), slow)
    assert routing.probs.shape[-1] == 9
    assert {*np.unique(routing.experts)} == {*range(9)}
    dropped = ~np.asarray(routing.kept)
    assert dropped.any() == (slots < 8)
    assert not (dropped & (np.asarray(routing.experts) >= 3)).any()


def test_padding_changes_nothing_for_tokens_that_skip():
    layer = make("sparse", 3, seed=3, eval_capacity_factor=None, group_size=8, **FREE)
    x, real = tokens(1, 1, 8), jnp.array([[True, False, True, True, False, True, True, True]])
    y, routing = jax.jit(lambda layer, x, mask: layer(x, mask=mask))(
        layer, jnp.where(real[..., None], x, jnp.nan), real
    )
    np.testing.assert_array_equal(y[~real], 0)
    np.testing.assert_allclose(y[real], call(layer, x)[0][real], rtol=1e-5, atol=1e-6)
    assert (routing.experts[~real] == -1).all()


def test_bfloat16_tokens_get_bfloat16_of_experts_that_compute_nothing():
    layer = make("sparse", 3, seed=3, dtype=jnp.bfloat16, eval_capacity_factor=None, **FREE)
    x = tokens(1, 2, 8).astype(jnp.bfloat16)
    slow = partial(reference.with_zero_computation, k=2, capacity=8, kinds=layer.zero_computation, computing=3)
    y, _ = call(layer, x)
    assert y.dtype == jnp.bfloat16
    want = slow(parameters(layer), np.asarray(x, np.float64))
    np.testing.assert_allclose(np.asarray(y, np.float64), want, rtol=0.05, atol=0.1)


def test_copies_need_outputs_as_wide_as_tokens():
    layer = SparseMoE(D, 2, lambda rngs: nnx.Linear(D, 4, rngs=rngs), copy_experts=1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"^copy_experts is 1 and constant_experts 0, which add a token, .* outputs 4"):
        jax.eval_shape(layer, jax.ShapeDtypeStruct((1, 2, D), jnp.float32))
    zero = SparseMoE(D, 2, lambda rngs: nnx.Linear(D, 4, rngs=rngs), zero_experts=1, rngs=nnx.Rngs(0))
    assert jax.eval_shape(zero, jax.ShapeDtypeStruct((1, 2, D), jnp.float32))[0].shape == (1, 2, 4)
