"""In float64 (x64) a layer is as accurate as float64 is, gradients too. Run by `test_plain_process.py`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moejax.experts import MLP
from moejax.layers import DenseMoE, SoftMoE, SparseMoE

jax.config.update("jax_enable_x64", True)
LAYERS = {
    "dense": DenseMoE,
    "soft": partial(SoftMoE, slots=2),
    **{name: partial(SparseMoE, dispatch=name) for name in ("einsum", "gather", "grouped")},
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_routers_gradient_is_accurate(name):
    def make():
        return LAYERS[name](4, 3, lambda rngs: MLP(4, 5, dtype=jnp.float64, rngs=rngs), rngs=nnx.Rngs(0))

    rng = np.random.default_rng(0)
    layer = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), make())
    x = rng.normal(size=(2, 6, 4))

    @jax.jit
    def loss(layer, x):
        y, _ = layer(x)
        return (y**2).sum()

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))(layer, x)
    assert all(a.dtype == jnp.float64 for a in jax.tree.leaves(gradient))
    direction = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), (layer, x))

    def along(step):
        return loss(*jax.tree.map(lambda a, d: a + step * d, (layer, x), direction))

    slope = (along(1e-6) - along(-1e-6)) / 2e-6
    got = sum(jnp.vdot(a, d) for a, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(got, slope, rtol=2e-8)


@pytest.mark.parametrize("tokens", [1, 40])
def test_few_tokens_and_exported_layers_are_as_accurate(tokens):
    """By the products that XLA makes of grouped rows, where BLAS is not worth its call or is not there."""

    def make(dispatch):
        nothing_dropped = {"capacity_factor": None, "eval_capacity_factor": None}
        make_expert = partial(MLP, 8, 8, dtype=jnp.float64)
        return SparseMoE(
            8, 16, lambda rngs: make_expert(rngs=rngs), dispatch=dispatch, **nothing_dropped, rngs=nnx.Rngs(0)
        )

    def program(dispatch):
        rng = np.random.default_rng(0)
        layer = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), make(dispatch))
        return jax.jit(lambda x: layer(x)[0])

    x = np.random.default_rng(1).normal(size=(1, tokens, 8))
    want, grouped = program("gather")(x), program("grouped")
    exported = jax.export.deserialize(jax.export.export(grouped)(x).serialize()).call
    for got in (grouped(x), exported(x)):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)
