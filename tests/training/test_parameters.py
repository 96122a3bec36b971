"""Only parameters are optimised, decayed, averaged, frozen, penalised and counted; a router's own state is none."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from moejax.config.training import TrainOptions
from moejax.errors import UserError
from moejax.experts import MLP
from moejax.layers import DenseMoE
from moejax.models import build_model
from moejax.parameters import decays, parameters, with_parameters
from moejax.router_updates import moe_layers
from moejax.routers import RouterState
from moejax.routing import DenseRouting
from moejax.training.average import averaged
from moejax.training.frozen import check
from moejax.training.loop import TrainState, make_init, make_update, parameter_key
from moejax.training.objective import StepMetrics, make_objective
from moejax.training.optimizer import make_optimizer
from moejax.upcycling import copies, upcycle, upcycle_moments, upcycle_state


class Counting(nnx.Module):
    """A parameter between a number that a router would change, a whole number and a random key."""

    def __init__(self):
        self.w = nnx.Param(jnp.array([2.0, -1.0]))
        self.state = RouterState(jnp.array([3.0, 5.0]))
        self.count = nnx.Variable(jnp.int32(7))
        self.rngs = nnx.Rngs(0)


def test_parameters_are_told_by_type():
    model = Counting()
    learnt = parameters(model)
    assert [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(learnt)] == [".w.value"]
    whole = with_parameters(model, jax.tree.map(lambda p: p + 1, learnt))
    np.testing.assert_array_equal(whole.w[...], [3, 0])
    np.testing.assert_array_equal(whole.state[...], [3, 5])
    assert jax.tree.structure(whole) == jax.tree.structure(model)


@pytest.mark.parametrize("train", [
    {"optimizer": "adam"}, {"optimizer": "adamw", "average": 0.9}, {"optimizer": "normalized"}, {"frozen": "v"}
], ids=str)  # fmt: skip
def test_a_step_moves_parameters_alone(train):
    """Also beside variables that have no gradient: a counter, a random key."""
    optimizer = make_optimizer(TrainOptions(weight_decay=0.5, schedule="constant", warmup=0.0, **train), 10)

    def objective(model, batch, key):
        loss = jnp.sum(model.w[...] ** 2) + jnp.sum(model.state[...])
        return loss, StepMetrics(*[loss] * len(StepMetrics._fields))

    model = Counting()
    state = TrainState(jnp.int32(0), model, optimizer.init(parameters(model)))
    after, _ = jax.jit(make_update(objective, optimizer))(state, {}, jax.random.key(0))
    assert not np.array_equal(after.model.w[...], model.w[...])
    for ours in (after.model, averaged(after)):
        np.testing.assert_array_equal(ours.state[...], [3, 5])
        assert int(ours.count[...]) == 7


@pytest.mark.parametrize("optimizer", ["adam", pytest.param("adamw", marks=pytest.mark.slow)])
def test_decay_leaves_the_balancing_bias_to_the_router(config, dataset, optimizer):
    """Adam divides a decay by its own size: it would take .003 a step from a bias that moves .005 a step."""
    moe = dict(layer="sparse", num_experts=4, hidden=8, k=2, router="sigmoid", bias_update_rate=0.005)
    train = dict(optimizer=optimizer, weight_decay=5e-4, learning_rate=3e-3, schedule="constant", warmup=0.0)
    config, steps = config.replace(moe=moe, train=train), 10
    adam = make_optimizer(config.train, steps)
    state = jax.jit(make_init(lambda rngs: build_model(config, 4, rngs), adam))(parameter_key(0))
    update = jax.jit(make_update(make_objective(config), adam, steps))
    batch, want = {name: jnp.asarray(array[:16]) for name, array in dataset.train.items()}, np.zeros(4)
    for step in range(steps):
        state, metrics = update(state, batch, jax.random.key(step))
        want += 0.005 * np.sign(0.25 - np.asarray(metrics.load[0]))
    np.testing.assert_allclose(moe_layers(state.model)[0].router.bias[...], want, atol=1e-6)
    assert np.abs(want).max() > 0.01


def test_an_annealed_temperature_is_left_to_its_schedule(config, dataset):
    moe = dict(layer="dense", num_experts=2, hidden=8, temperature=4.0, final_temperature=1.0)
    train = dict(optimizer="adam", weight_decay=0.5, average=0.9, warmup=0.0)
    config = config.replace(moe=moe, train=train)
    adam = make_optimizer(config.train, 4)
    state = jax.jit(make_init(lambda rngs: build_model(config, 4, rngs), adam))(parameter_key(0))
    update = jax.jit(make_update(make_objective(config), adam, 4))
    batch = {name: jnp.asarray(array[:15]) for name, array in dataset.train.items()}
    for step in range(4):
        state, _ = update(state, batch, jax.random.key(step))
    for model in (state.model, averaged(state)):
        np.testing.assert_allclose(jnp.exp(moe_layers(model)[0].router.log_temperature[...]), 1.0, rtol=1e-6)


def test_state_is_nothing_to_freeze():
    with pytest.raises(UserError, match="no parameter's path begins so"):
        check(Counting(), "state")


class WithState(MLP):
    """An expert that carries a number which nobody learns."""

    def __init__(self, rngs):
        super().__init__(2, 3, rngs=rngs)
        self.state = RouterState(jnp.array([100.0]))


def test_the_penalty_on_experts_is_of_their_parameters(config):
    moe = dict(layer="dense", num_experts=2, l2_weight=1.0)
    layer = DenseMoE(2, 2, WithState, rngs=nnx.Rngs(0))

    class Model(nnx.Module):
        def __init__(self):
            self.layer = layer

        @property
        def moe_layers(self):
            return (self.layer,)

        def __call__(self, batch, *, train, key):
            n = len(batch["label"])
            return jnp.zeros((n, 2)), (DenseRouting(jnp.zeros((1, n, 2)), jnp.full((1, n, 2), 0.5)),)

    config = config.replace(moe=moe)
    _, metrics = jax.jit(make_objective(config))(Model(), {"label": jnp.zeros(3, int)}, jax.random.key(0))
    numbers = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(parameters(layer.experts))])
    np.testing.assert_allclose(metrics.auxiliary, (numbers**2).mean(), rtol=1e-5)


def test_upcycling_copies_state_as_it_is_and_converts_moments_of_parameters():
    dense = WithState(nnx.Rngs(0))
    noisy = jax.jit(lambda dense: copies(dense, 4, noise=0.5, rngs=nnx.Rngs(1)))(dense)
    np.testing.assert_array_equal(noisy.state[...], np.full((4, 1), 100.0))
    assert np.ptp(noisy.up.kernel[...], axis=0).min() > 0

    layer = jax.jit(lambda dense: upcycle(dense, 2, 4, router="sigmoid", rngs=nnx.Rngs(1)))(dense)
    adam = optax.adam(1e-2)
    state = upcycle_state(adam.init(parameters(dense)), dense, lambda moments: upcycle_moments(moments, layer))
    assert jax.tree.structure(state) == jax.tree.structure(adam.init(parameters(layer)))


def test_decay_acts_on_matrices_whatever_they_are_stacked_in():
    """The biases and scales of stacked experts have two axes."""

    class Expert(nnx.Module):
        def __init__(self, rngs):
            self.norm, self.mlp = nnx.LayerNorm(4, rngs=rngs), MLP(4, 6, rngs=rngs)

        def __call__(self, x):
            return self.mlp(self.norm(x))

    layer = jax.eval_shape(lambda: DenseMoE(4, 3, Expert, rngs=nnx.Rngs(0)))
    for learnt in (parameters(layer), nnx.state(layer, nnx.Param)):
        mask = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(decays(learnt))}
        assert {name for name, decayed in mask.items() if decayed} == {name for name in mask if "kernel" in name}
        assert len(mask) == 7
