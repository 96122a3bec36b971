"""An exponential moving average of the parameters over training: what is evaluated in place of the last ones.

Polyak & Juditsky 1992; as a moving average with a decay that grows at first, TensorFlow's ExponentialMovingAverage. It
is kept in the optimiser's state, so that a checkpoint has both.
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
    """Follow the parameters as the updates leave them, with a decay of min(decay, (1 + steps) / (10 + steps)).

    Must come last, for it looks at what the others made of the updates, and changes nothing of them.
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
    """The model that is evaluated: with averaged parameters if the optimiser keeps them, else as it is."""
    kept = jax.tree.leaves(state.optimizer, is_leaf=lambda leaf: isinstance(leaf, AverageState))
    averages = [leaf.parameters for leaf in kept if isinstance(leaf, AverageState)]
    return with_parameters(state.model, averages[0]) if averages else state.model
