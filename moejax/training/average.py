"""An exponential moving average of the parameters, evaluated in place of the last ones.

Averaging is Polyak & Juditsky's (1992); the decay that grows at first is that of TensorFlow's ExponentialMovingAverage.
The average is part of the optimiser's state, so a checkpoint has it too.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int, PyTree

from moejax.parameters import with_parameters
from moejax.training.loop import TrainState


class AverageState(NamedTuple):
    """The average so far and the number of steps in it."""

    parameters: PyTree[Array]
    steps: Int[Array, ""]


def average_parameters(decay: float) -> optax.GradientTransformation:
    """Average the parameters after each update, with a decay of min(decay, (1 + steps) / (10 + steps)).

    Changes no update. Must be the last transformation of the chain, since it needs the final updates.
    """

    def init(params: PyTree[Array]) -> AverageState:
        return AverageState(jax.tree.map(jnp.copy, params), jnp.zeros((), jnp.int32))

    def update(updates: PyTree[Array], state: AverageState, params: PyTree[Array] | None = None):
        now = jnp.minimum(decay, (1 + state.steps) / (10 + state.steps))
        moved = optax.apply_updates(params, updates)
        parameters = jax.tree.map(lambda average, p: average + (1 - now) * (p - average), state.parameters, moved)
        return updates, AverageState(parameters, state.steps + 1)

    return optax.GradientTransformation(init, update)


def averaged(state: TrainState) -> nnx.Module:
    """The model to evaluate: with the averaged parameters if the optimiser has them, else as it is.

    What routers change by themselves, such as a bias, is the last step's.
    """
    kept = jax.tree.leaves(state.optimizer, is_leaf=lambda leaf: isinstance(leaf, AverageState))
    averages = [leaf.parameters for leaf in kept if isinstance(leaf, AverageState)]
    return with_parameters(state.model, averages[0]) if averages else state.model
