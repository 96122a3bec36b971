"""The moving average of the parameters: its recursion by hand, its place in a run, and what is evaluated."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from moejax.config.training import TrainOptions
from moejax.experts import MLP
from moejax.training.average import average_parameters, averaged
from moejax.training.loop import TrainState
from moejax.training.optimizer import make_optimizer


def test_the_average_by_hand():
    transform, weight = average_parameters(0.25), jnp.float32(1.0)
    state = transform.init(weight)
    want = 1.0
    for step, update in enumerate((1.0, -3.0, 0.5)):
        change, state = transform.update(jnp.float32(update), state, weight)
        assert float(change) == update
        weight = optax.apply_updates(weight, change)
        decay = min(0.25, (1 + step) / (10 + step))  # 1/10, 2/11, 1/4
        want = decay * want + (1 - decay) * float(weight)
        np.testing.assert_allclose(state.parameters, want, rtol=1e-6)
    assert int(state.steps) == 3


@pytest.mark.parametrize(("average", "kept"), [(0.0, 0.0), (0.9, 0.1)])
def test_what_is_evaluated(average, kept):
    model = MLP(2, 3, rngs=nnx.Rngs(0))
    gradient = jax.tree.map(jnp.ones_like, model)
    optimizer = make_optimizer(TrainOptions(average=average, schedule="constant", warmup=0.0), 10)

    @jax.jit
    def step(model):
        change, state = optimizer.update(gradient, optimizer.init(model), model, value=jnp.float32(1))
        moved = optax.apply_updates(model, change)
        return moved, averaged(TrainState(jnp.int32(1), moved, state))

    moved, shown = step(model)
    assert isinstance(shown, MLP)
    want = jax.tree.map(lambda before, after: kept * before + (1 - kept) * after, model, moved)
    for leaf, wanted in zip(jax.tree.leaves(shown), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(leaf, wanted, rtol=1e-6)
