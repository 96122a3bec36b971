"""Upcycling: the same function at first, experts that are copies, moments that move along."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from flax import nnx

from moejax.experts import GLU, MLP
from moejax.upcycling import upcycle, upcycle_moments, upcycle_state

D, H, E = 6, 10, 4


def trained(kind=MLP):
    return reference.randomly_filled(lambda: kind(D, H, rngs=nnx.Rngs(0)))


def tokens():
    return jnp.asarray(np.random.default_rng(1).normal(size=(2, 7, D)), jnp.float32)


@pytest.mark.parametrize("kind", [MLP, GLU])
@pytest.mark.parametrize("options", [{}, {"k": 3}, {"dispatch": "gather"}, {"dispatch": "grouped"}], ids=str)
def test_the_layer_computes_what_the_mlp_did(kind, options):
    dense = trained(kind)
    y, _ = jax.jit(lambda layer, x: layer(x))(upcycle(dense, D, E, rngs=nnx.Rngs(1), **options), tokens())
    np.testing.assert_allclose(y, dense(tokens()), rtol=1e-5, atol=1e-5)


def test_every_expert_is_a_copy_and_the_mlp_stays():
    dense = trained()
    before = dense.up.kernel[...].copy()
    layer = upcycle(dense, D, E, rngs=nnx.Rngs(1))
    for expert, mlp in zip(jax.tree.leaves(layer.experts), jax.tree.leaves(dense), strict=True):
        np.testing.assert_array_equal(expert, np.broadcast_to(mlp, (E, *mlp.shape)))
    np.testing.assert_array_equal(dense.up.kernel[...], before)


def test_noise_is_a_share_of_each_parameters_own_deviation():
    dense = reference.randomly_filled(lambda: MLP(40, 50, rngs=nnx.Rngs(0)))
    layer = upcycle(dense, 40, E, noise=0.1, rngs=nnx.Rngs(1))
    noise = np.asarray(layer.experts.up.kernel[...] - dense.up.kernel[...][None])
    np.testing.assert_allclose(noise.std() / np.asarray(dense.up.kernel[...]).std(), 0.1, rtol=0.05)
    assert np.abs(noise[0] - noise[1]).max() > 0.01


def test_the_optimiser_goes_on_with_the_mlps_moments():
    dense = trained()
    adam = optax.adam(1e-2)

    @jax.jit
    def step(module, state):
        gradient = jax.grad(lambda module: sum(jnp.sum(y**2) for y in jax.tree.leaves(module(tokens()))[:1]))(module)
        return adam.update(gradient, state, module)

    _, state = step(dense, jax.jit(adam.init)(dense))

    layer = upcycle(dense, D, E, rngs=nnx.Rngs(1))
    moved = upcycle_state(state, dense, lambda moments: upcycle_moments(moments, layer))
    assert moved[0].count == 1
    for name in ("mu", "nu"):
        old, new = getattr(state[0], name), getattr(moved[0], name)
        np.testing.assert_array_equal(new.experts.up.kernel[...][2], old.up.kernel[...])
        np.testing.assert_array_equal(new.router.kernel[...], np.zeros((D, E)))
    # It is a state for the layer: its own structure, and an update goes through.
    assert jax.tree.structure(moved) == jax.tree.structure(jax.eval_shape(adam.init, layer))
    change, _ = step(layer, moved)
    assert np.abs(change.experts.up.kernel[...]).max() > 0


def test_a_model_around_the_mlp_is_converted_by_its_own_rule():
    class Model(nnx.Module):
        def __init__(self, mlp):
            self.mlp, self.head = mlp, nnx.Linear(D, 2, rngs=nnx.Rngs(2))

    def convert(model):
        model = jax.tree.map(jnp.copy, model)
        model.mlp = upcycle_moments(model.mlp, layer)
        return model

    dense = Model(trained())
    layer = upcycle(dense.mlp, D, E, rngs=nnx.Rngs(1))
    moved = upcycle_state(optax.adam(1e-2).init(dense), dense, convert)
    assert moved[0].mu.mlp.experts.up.kernel.shape == (E, D, H)
    assert moved[0].mu.head.kernel.shape == (D, 2)


def test_a_state_of_something_else_is_refused():
    layer = upcycle(trained(), D, E, rngs=nnx.Rngs(1))
    with pytest.raises(ValueError, match="no tree like the dense module"):
        upcycle_state(optax.adam(1e-2).init({"w": jnp.ones(3)}), trained(), lambda m: upcycle_moments(m, layer))
