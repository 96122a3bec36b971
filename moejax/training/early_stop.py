"""An early stop: from some loss on, nothing is learnt any more. It wraps an optimiser, and is part of its state."""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

T = TypeVar("T")


class EarlyStopState(NamedTuple):
    """The lowest loss so far, whether training has stopped, and the steps before that."""

    least: Float[Array, ""]
    stopped: Bool[Array, ""]
    steps: Int[Array, ""]


def stopped_after(state: PyTree[Array]) -> int | None:
    """The steps after which an early stop has ended the learning; None as long as it goes on."""
    stop = early_stop_of(state)
    return int(stop.steps) if stop is not None and stop.stopped else None


def sentence(steps: int) -> str:
    """What is to be known of a run that learnt for so many steps."""
    return f"After {steps} steps train.stop_rise or train.stop_below ended the learning for good."


def unless_stopped(state: PyTree[Array], changed: T, before: T) -> T:
    """`changed`, or once an early stop has ended the learning `before`."""
    stop = early_stop_of(state)
    return changed if stop is None else jax.lax.cond(stop.stopped, lambda: before, lambda: changed)


def early_stop_of(state: PyTree[Array]) -> EarlyStopState | None:
    """The early stop's part of an optimiser's state; None if there is none."""
    parts = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, EarlyStopState))
    return next((part for part in parts if isinstance(part, EarlyStopState)), None)


def early_stop(
    optimizer: optax.GradientTransformation, rise: float | None, below: float | None
) -> optax.GradientTransformationExtraArgs:
    """The optimiser, until the first step whose loss has risen (the rule of Chen et al.'s code), and never again.

    Risen is a loss that is above the lowest so far, and either above that by more than `rise`, or at most `below`; None
    leaves a condition out. From then on neither parameters change nor the optimiser's state, such as an average of
    them. `update` takes the loss as `value`.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: PyTree[Array]) -> tuple[EarlyStopState, PyTree[Array]]:
        stop = EarlyStopState(jnp.float32(jnp.inf), jnp.zeros((), bool), jnp.zeros((), jnp.int32))
        return stop, optimizer.init(params)

    def update(updates, state, params=None, *, value, **extra):
        stop, before = state
        stops = jnp.zeros((), bool)
        if rise is not None:
            stops |= value > stop.least + rise
        if below is not None:
            stops |= value <= below
        stopped = stop.stopped | (stops & (value > stop.least))
        updates, after = optimizer.update(updates, before, params, value=value, **extra)
        updates = jax.tree.map(lambda u: jnp.where(stopped, jnp.zeros_like(u), u), updates)
        after = jax.tree.map(lambda new, old: jnp.where(stopped, old, new), after, before)
        return updates, (EarlyStopState(jnp.minimum(stop.least, value), stopped, stop.steps + ~stopped), after)

    return optax.GradientTransformationExtraArgs(init, update)
