"""The loop: one compiled `lax.scan` over a chunk of steps, with the examples on the device and the state donated.

A step's examples (`feed`) and its random key are pure functions of (seed, epoch, step). So no iterator is saved, a run
may stop and resume after any chunk, and the length of the chunks changes no bit of the result.
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
from moejax.training.early_stop import unless_stopped
from moejax.training.feed import Feed
from moejax.training.finite import finite
from moejax.training.objective import Batch, Objective, StepMetrics


class TrainState(NamedTuple):
    """All that training changes."""

    step: Int[Array, ""]  # steps taken
    model: nnx.Module
    optimizer: PyTree[Array]  # the optimiser's state


class Keys(NamedTuple):
    """Independent random streams of a run, in addition to that of its parameters."""

    order: Key[Array, ""]
    augment: Key[Array, ""]


Update = Callable[[TrainState, Batch, Array], tuple[TrainState, StepMetrics]]
Watch = Callable[[PyTree[Array], PyTree[Array]], PyTree[Array]]  # what to report of a gradient and the new parameters


def make_keys(seed: int) -> Keys:
    """The streams of a seed."""
    return Keys(*jax.random.split(jax.random.key(seed), len(Keys._fields)))


def make_init(build: Callable[..., nnx.Module], optimizer: optax.GradientTransformation) -> Callable[..., TrainState]:
    """Compile `init(key, *given)`: the state before the first step, of the model `build(rngs, *given)`.

    The key draws the parameters. Whatever else is given, such as pre-trained weights, is an argument of the compiled
    program and not a constant in it.
    """

    @jax.jit
    def init(key: Key[Array, ""], *given: PyTree[Array]) -> TrainState:
        model = build(nnx.Rngs(key), *given)
        return TrainState(jnp.zeros((), jnp.int32), model, optimizer.init(parameters(model)))

    return init


def parameter_key(seed: int) -> Key[Array, ""]:
    """The stream of the initial parameters, from a generator that compiles three times faster than the default."""
    return jax.random.key(seed, impl="rbg")


def make_update(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    steps: int | None = None,
    *,
    skips: bool = False,
    watch: Watch | None = None,
) -> Update:
    """One step of gradient descent as a pure function (state, batch, key) → (state, metrics).

    Gradients change the model's parameters alone (`moejax.parameters`). Then routers update their own state from the
    step's load and the share of all `steps` done; `steps` None: they do not, and neither do they after an early stop.
    `skips`: a step whose loss, metrics or gradient are not all finite changes nothing but the number of steps.
    """

    optimizer = optax.with_extra_args_support(optimizer)  # some need the loss

    def update(state: TrainState, batch: Batch, key: Key[Array, ""]) -> tuple[TrainState, StepMetrics]:
        def with_these(learnt: nnx.Module) -> tuple[Array, StepMetrics]:
            return objective(with_parameters(state.model, learnt), batch, key)

        learnt = parameters(state.model)
        (loss, metrics), gradient = jax.value_and_grad(with_these, has_aux=True)(learnt)
        step = state.step + 1

        def learn() -> tuple[nnx.Module, PyTree[Array]]:
            change, optimizer_state = optimizer.update(gradient, state.optimizer, learnt, value=loss)
            model = with_parameters(state.model, optax.apply_updates(learnt, change))
            if steps is not None:
                before, model = model, jax.tree.map(lambda leaf: leaf, model)  # a copy: what was there stays as it is
                load = metrics.load * metrics.experts_per_token[:, None]
                update_routers(model, load, progress=step / steps)
                model = unless_stopped(optimizer_state, model, before)
            return model, optimizer_state

        if skips:
            applied = finite((loss, metrics, gradient))
            model, optimizer_state = jax.lax.cond(applied, learn, lambda: (state.model, state.optimizer))
            metrics = metrics._replace(applied=applied)
        else:
            model, optimizer_state = learn()
        if watch is not None:
            metrics = metrics._replace(watched=watch(gradient, parameters(model)))
        return TrainState(step, model, optimizer_state), metrics

    return update


def make_chunk(update: Update, feed: Feed, length: int) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """Compile `chunk(state, data, keys, stop)`: up to `length` steps of one epoch in one call, the state donated.

    The feed takes batches from `data`. The chunk ends before step `stop`, which must not lie beyond the epoch. Returns
    the new state and the stacked metrics of all steps, zeros for those not taken. The same program serves all chunks of
    all epochs.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def chunk(state: TrainState, data: Batch, keys: Keys, stop: Int[Array, ""] | int) -> tuple[TrainState, StepMetrics]:
        batch_of = feed(data, keys.order, state.step)

        @functools.partial(jax.jit, inline=True)  # traced once, for `skip` as well
        def take(state: TrainState) -> tuple[TrainState, StepMetrics]:
            batch = constrain(batch_of(state.step), TOKENS)
            return update(state, batch, jax.random.fold_in(keys.augment, state.step))

        def skip(state: TrainState) -> tuple[TrainState, StepMetrics]:
            return state, jax.tree.map(jnp.zeros_like, jax.eval_shape(take, state)[1])

        return jax.lax.scan(lambda state, _: jax.lax.cond(state.step < stop, take, skip, state), state, length=length)

    return chunk
