"""Routers that change by themselves, in a loop of one's own: by `jax.jit` with models as pytrees, by `nnx.jit`."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import moejax
from moejax.metrics import experts_per_token, load
from moejax.parameters import parameters, with_parameters
from moejax.router_updates import moe_layers

D, E, STEPS = 4, 4, 8
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, D)) + 1, jnp.float32)


def mlp(rngs):
    return moejax.MLP(D, 8, rngs=rngs)


class Model(nnx.Module):
    """Twelve layers, so that 10 and 11 come after 9: balanced by a bias, and one of an annealed temperature."""

    def __init__(self, rngs, layers=3):
        self.blocks = nnx.List(
            [moejax.SparseMoE(D, E, mlp, router="sigmoid", rngs=rngs) for _ in range(layers - 1)]
            + [moejax.DenseMoE(D, E, mlp, temperature=4.0, final_temperature=1.0, rngs=rngs)]
        )

    def __call__(self, x):
        routings = []
        for block in self.blocks:
            y, routing = block(x, train=True)
            x, routings = x + y, [*routings, routing]
        return x, routings


@jax.jit
def routing_of(layer, x):
    return layer(x)[1]


def loss_of(model, x):
    y, routings = model(x)
    return jnp.mean(y**2) + moejax.auxiliary_loss(routings, balance=0.0), routings


def by_jax_jit(model, optimizer):
    """As the library's own loop: the model goes in and comes out."""

    @jax.jit
    def step(model, state, progress):
        learnt = parameters(model)
        of = lambda learnt: loss_of(with_parameters(model, learnt), X)  # noqa: E731
        (_, routings), gradient = jax.value_and_grad(of, has_aux=True)(learnt)
        change, state = optimizer.update(gradient, state, learnt)
        model = with_parameters(model, optax.apply_updates(learnt, change))
        moejax.update_routers(model, routings, progress=progress)
        return model, state, routings

    state, seen = optimizer.init(parameters(model)), []
    for n in range(STEPS):
        model, state, routings = step(model, state, jnp.float32((n + 1) / STEPS))
        seen.append(routings)
    return model, seen


def by_nnx_jit(model, optimizer):
    """As Flax's documentation has it: the model changes in place."""

    @nnx.jit
    def step(model, optimizer, progress):
        (_, routings), gradient = nnx.value_and_grad(loss_of, has_aux=True)(model, X)
        optimizer.update(model, gradient)
        moejax.update_routers(model, routings, progress=progress)
        return routings

    optimizer = nnx.Optimizer(model, optimizer, wrt=nnx.Param)
    return model, [step(model, optimizer, jnp.float32((n + 1) / STEPS)) for n in range(STEPS)]


@pytest.mark.parametrize("loop", [by_jax_jit, by_nnx_jit])
def test_a_loop_of_ones_own_balances_by_the_bias_and_anneals(loop):
    model, seen = loop(Model(nnx.Rngs(0)), optax.adam(1e-3))
    for layer, block in enumerate(model.blocks[:2]):
        loads = np.stack([load(routings[layer]) for routings in seen])
        want = 1e-3 * np.sign(1 / E - loads).sum(0)
        np.testing.assert_allclose(block.router.bias[...], want, atol=1e-7)
        assert np.abs(want).max() > 1e-3  # it moved, and not to and fro
    np.testing.assert_allclose(jnp.exp(model.blocks[2].router.log_temperature[...]), 1.0, rtol=1e-6)


def test_layers_are_found_in_the_order_of_their_numbers():
    model = nnx.eval_shape(lambda: Model(nnx.Rngs(0), layers=12))
    assert all(found is block for found, block in zip(moe_layers(model), model.blocks, strict=True))


def test_a_layer_by_itself_a_list_of_layers_and_loads_will_do():
    one, other = (moejax.SparseMoE(D, E, mlp, router="sigmoid", rngs=nnx.Rngs(0)) for _ in range(2))
    routing = routing_of(one, X)
    moejax.update_routers(one, routing, progress=0.0)
    moejax.update_routers([other], [load(routing)], progress=0.0)
    np.testing.assert_array_equal(one.router.bias[...], other.router.bias[...])
    assert np.abs(one.router.bias[...]).max() > 0


def test_a_router_hears_how_many_experts_a_token_chose():
    """By its routing, or by its load times that number; after a step of gradients with its penalty in the loss."""
    one, other = (
        moejax.SparseMoE(D, E, mlp, k=1, router="relu", dispatch="grouped", rngs=nnx.Rngs(0)) for _ in range(2)
    )
    routing = routing_of(one, X)
    number = experts_per_token(routing)
    assert number > 1
    moejax.update_routers(one, routing, progress=0.0)
    moejax.update_routers([other], [load(routing) * number], progress=0.0)
    for layer in (one, other):
        np.testing.assert_allclose(layer.router.l1_reg_coeff[...], 1.2e-8, rtol=1e-6)


class Two(nnx.Module):
    def __init__(self):
        self.encoder, self.decoder = (moejax.SparseMoE(D, E, mlp, router="sigmoid", rngs=nnx.Rngs(0)) for _ in range(2))


@pytest.mark.parametrize("router", ["sigmoid", "relu"])
def test_a_batch_without_a_token_changes_nothing(router):
    layer = moejax.SparseMoE(D, E, mlp, router=router, rngs=nnx.Rngs(0))
    before = jax.tree.map(jnp.copy, layer)
    for x, mask in ((X, jnp.zeros(X.shape[:2], bool)), (X[:0], None)):
        moejax.update_routers(layer, layer(x, train=True, mask=mask)[1], progress=0.5)
        jax.tree.map(np.testing.assert_array_equal, layer, before)
    moejax.update_routers(layer, layer(X, train=True)[1], progress=0.5)
    assert any((np.asarray(a) != b).any() for a, b in zip(*map(jax.tree.leaves, (layer, before)), strict=True))


def test_what_cannot_be_matched_is_refused_and_nothing_is_changed():
    model = Two()
    routings = [routing_of(layer, X) for layer in (model.encoder, model.decoder)]
    for call, sentence in (
        (
            (model, routings),
            r"the MoE layers decoder, encoder have no order; give update_routers the layers themselves",
        ),
        (([model.encoder], routings), "update_routers got 2 routings for 1 MoE layers; give one a layer"),
        (([model.encoder, model.decoder], [jnp.ones(E), jnp.ones((3, E))]), r"of the shapes \(4,\), \(3, 4\); a"),
    ):
        with pytest.raises(ValueError, match=sentence):
            inspect.unwrap(moejax.update_routers)(*call, progress=0.0)  # without this suite's shape checks
    assert not any(layer.router.bias[...].any() for layer in (model.encoder, model.decoder))
    moejax.update_routers([model.encoder, model.decoder], routings, progress=0.0)
    assert all(layer.router.bias[...].any() for layer in (model.encoder, model.decoder))
