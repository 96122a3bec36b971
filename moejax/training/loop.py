"""The loop: one compiled `lax.scan` over a chunk of steps, with the examples on the device and the state donated.

Which examples a step sees (`feed`), and its random key, are pure functions of (seed, epoch, step). So there is no
iterator to save, a run may stop and resume after any chunk, and cutting an epoch into other chunks changes no bit of
the result.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int, Key, PyTree

from moejax.parameters import parameters, with_parameters
from moejax.router_updates import update_routers
from moejax.sharding import TOKENS, constrain
from moejax.training.feed import Feed
from moejax.training.objective import Batch, Objective, StepMetrics


class TrainState(NamedTuple):
    """All that training changes."""

    step: Int[Array, ""]  # steps taken
    model: nnx.Module
    optimizer: PyTree[Array]  # what the optimiser keeps of the model's parameters


class Keys(NamedTuple):
    """Independent random streams of a run, beside that of its parameters."""

    order: Key[Array, ""]
    augment: Key[Array, ""]


Update = Callable[[TrainState, Batch, Array], tuple[TrainState, StepMetrics]]


def make_keys(seed: int) -> Keys:
    """The streams of a seed."""
    return Keys(*jax.random.split(jax.random.key(seed), len(Keys._fields)))


def make_init(build: Callable[..., nnx.Module], optimizer: optax.GradientTransformation) -> Callable[..., TrainState]:
    """Compile `init(key, *given)`: the state before the first step, of the model `build(rngs, *given)`.

    Parameters are drawn by the key. What is given beside it, such as pre-trained weights, is an argument of the program
    and not a constant in it.
    """

    @jax.jit
    def init(key: Key[Array, ""], *given: PyTree[Array]) -> TrainState:
        model = build(nnx.Rngs(key), *given)
        return TrainState(jnp.zeros((), jnp.int32), model, optimizer.init(parameters(model)))

    return init


def parameter_key(seed: int) -> Key[Array, ""]:
    """The stream of the initial parameters: of a generator that compiles three times faster than the default one."""
    return jax.random.key(seed, impl="rbg")


def make_update(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    steps: int | None = None,
) -> Update:
    """One step of gradient descent as a pure function (state, batch, key) → (state, metrics).

    It moves the model's parameters and nothing else (`moejax.parameters`). In a training of so many `steps`, routers
    then change what they change by themselves, given the step's load; None: they stay as they are.
    """

    optimizer = optax.with_extra_args_support(optimizer)  # some look at the loss

    def update(state: TrainState, batch: Batch, key: Key[Array, ""]) -> tuple[TrainState, StepMetrics]:
        def with_these(learnt: nnx.Module) -> tuple[Array, StepMetrics]:
            return objective(with_parameters(state.model, learnt), batch, key)

        learnt = parameters(state.model)
        (loss, metrics), gradient = jax.value_and_grad(with_these, has_aux=True)(learnt)
        change, optimizer_state = optimizer.update(gradient, state.optimizer, learnt, value=loss)
        model, step = with_parameters(state.model, optax.apply_updates(learnt, change)), state.step + 1
        if steps is not None:
            model = jax.tree.map(lambda leaf: leaf, model)  # a copy: the caller's state stays as it is
            update_routers(model.moe_layers, metrics.load, progress=step / steps)
        return TrainState(step, model, optimizer_state), metrics

    return update


def make_chunk(update: Update, feed: Feed, length: int) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """Compile `chunk(state, data, keys, stop)`: up to `length` steps of one epoch in one call, the state donated.

    `data` is what the feed takes batches from. The chunk ends when step `stop` is reached, which must not lie beyond
    the epoch. Returns the new state and the metrics of each step, stacked; zeros for steps that were not taken. One
    program serves every place in every epoch.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def chunk(state: TrainState, data: Batch, keys: Keys, stop: Int[Array, ""] | int) -> tuple[TrainState, StepMetrics]:
        batch_of = feed(data, keys.order, state.step)

        def take(state: TrainState) -> tuple[TrainState, StepMetrics]:
            batch = constrain(batch_of(state.step), TOKENS)
            return update(state, batch, jax.random.fold_in(keys.augment, state.step))

        def skip(state: TrainState) -> tuple[TrainState, StepMetrics]:
            return state, jax.tree.map(jnp.zeros_like, jax.eval_shape(take, state)[1])

        return jax.lax.scan(lambda state, _: jax.lax.cond(state.step < stop, take, skip, state), state, length=length)

    return chunk
