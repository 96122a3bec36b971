"""Keys from `rngs` on a mesh and in compiled programs. The rest is in plain_layers and plain_arguments."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType

from moejax.experts import MLP
from moejax.layers import SparseMoE

D, E = 4, 4
X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6, D)), jnp.float32)


@pytest.mark.parametrize(
    "kind", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in (None, AxisType.Auto)), AxisType.Explicit]
)
def test_every_call_draws_anew_on_a_mesh_too(kind):
    layer, rngs = SparseMoE(D, E, lambda rngs: MLP(D, 8, rngs=rngs), router="vmoe", rngs=nnx.Rngs(0)), nnx.Rngs(7)
    axes = ("data", "expert")
    devices = jax.devices()[:4]
    mesh = kind and jax.set_mesh(jax.make_mesh((2, 2), axes, axis_types=(kind, kind), devices=devices))
    with mesh or contextlib.nullcontext():
        first, second = (layer(X, train=True, rngs=rngs)[1].logits for _ in range(2))
        again = layer(X, train=True, key=nnx.Rngs(7).dropout())[1].logits
    np.testing.assert_allclose(first, again, rtol=1e-6)
    assert np.abs(first - second).max() > 1e-3


def test_nnx_jit_counts_what_was_drawn_and_jax_jit_gives_it_back():
    layer = SparseMoE(D, E, lambda rngs: MLP(D, 8, rngs=rngs), router="vmoe", rngs=nnx.Rngs(0))

    def call(layer, rngs):
        return layer(X, train=True, rngs=rngs)[1].logits, rngs

    rngs, other = nnx.Rngs(7), nnx.Rngs(7)
    flax, pure = nnx.jit(lambda *args: call(*args)[0]), jax.jit(call)
    for _ in range(2):
        want = flax(layer, rngs)
        got, other = pure(layer, other)
        np.testing.assert_allclose(got, want, rtol=1e-6)
    assert int(rngs.default.count[...]) == int(other.default.count[...]) == 2
