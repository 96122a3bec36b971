"""What first was not finite: the steps since the last checkpoint again, by a program that looks at every gradient.

Steps are functions of (seed, step), so they can be taken again. That costs nothing until something is not finite: the
program that trains looks at no gradient.
"""

import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, PyTree

from moejax.errors import UserError
from moejax.parameters import parameters, with_parameters
from moejax.training import processes
from moejax.training.finite import finite, finite_rows
from moejax.training.objective import Batch, Objective, StepMetrics

if TYPE_CHECKING:
    from moejax.training.fit import Fit

_PER_LAYER = ("load", "dropped", "gate_entropy", "experts_per_token")
_LIBRARY = str(Path(__file__).parents[1])


class Watched(NamedTuple):
    """What is looked at in a step, for each parameter."""

    gradient: Bool[Array, "*n p"]  # whether its gradient is finite
    value: Bool[Array, "*n p"]  # whether it is so itself after the step
    norm: Float[Array, "*n"]  # of the whole gradient


def watch(gradient: PyTree[Array], learnt: PyTree[Array]) -> Watched:
    """For `make_update`."""

    def each(tree: PyTree[Array]) -> Bool[Array, " p"]:
        return jnp.stack([finite(leaf) for leaf in jax.tree.leaves(tree)])

    return Watched(each(gradient), each(learnt), optax.tree.norm(gradient))


class Finding(NamedTuple):
    """The first step where something was not finite, what that was, and the values of the step before."""

    step: int
    what: str
    before: str


def sentences(fit: "Fit", until: int) -> list[str]:
    """On what was not finite first in the steps up to `until`; none if it is not found.

    Takes the steps since the last checkpoint again, with which the state of `fit` is lost.
    """
    start = _start(fit, until)
    if start >= until:
        return []
    fit.progress.message(f"looking for what was not finite first: steps {start + 1} to {until} again ...")
    try:
        found = search(_again(fit, start, until), fit.state.model)
        if found is None:
            return []
        said = [f"Step {found.step} was the first where something was not finite: {found.what}.{found.before}"]
        return [*said, _operation(fit, start, found.step)] if fit.debug_nans else said
    except (RuntimeError, OSError, UserError) as error:  # what is known already is more important
        return [f"What was not finite first cannot be told: {(str(error).splitlines() or [''])[0]}"]


def _start(fit: "Fit", until: int) -> int:
    """The last checkpoint's step; the same in all processes."""
    saved = max((step for step in fit.checkpoints.steps() if step <= until), default=0)
    return int(processes.from_first(str(saved)))


def _again(fit: "Fit", start: int, until: int) -> Iterator[tuple[int, StepMetrics]]:
    """The steps after `start` once more, in chunks: how many were before each, and its metrics."""
    fit.state, chunk = fit.restore(start) if start else fit.begin(), fit.watching()
    while (step := int(fit.state.step)) < until:
        yield step, fit.take(chunk, fit.chunk_at(step, until))


def search(chunks: Iterable[tuple[int, StepMetrics]], model: nnx.Module) -> Finding | None:
    """The first step of those at the end that all have something that is not finite.

    `chunks`: how many steps were before each, and its metrics. Steps that were skipped, and followed by one that was
    not, do not count.
    """
    found, before = None, ""
    for begun, metrics in chunks:
        watched: Any = metrics.watched
        good = finite_rows(metrics._replace(watched=None)) & watched.gradient.all(1) & watched.value.all(1)
        for n, fine in enumerate(good):
            step = begun + n + 1
            if fine:
                found = None
                loss, norm = metrics.loss[n], watched.norm[n]
                before = f" Step {step} had a loss of {loss:.4g} and a gradient of norm {norm:.4g}."
            elif found is None:
                found = Finding(step, _what(jax.tree.map(lambda rows, n=n: rows[n], metrics), model), before)
    return found


def _what(metrics: StepMetrics, model: nnx.Module) -> str:
    """In a step's metrics, what was not finite: the forward pass, else the gradient, else what the update made."""
    watched: Any = metrics.watched
    if not finite_rows(jax.tree.map(lambda value: value[None], metrics._replace(watched=None))).all():
        layers = np.all([_of_layers(getattr(metrics, name)) for name in _PER_LAYER], axis=0)
        loss = f"the loss ({metrics.loss:g}, auxiliary {metrics.auxiliary:g})"
        return loss if layers.all() else f"the routing of MoE layer {np.argmin(layers)}, and with it {loss}"
    names = [jax.tree_util.keystr(path).lstrip(".") for path, _ in jax.tree.leaves_with_path(parameters(model))]
    if not watched.gradient.all():
        return f"the gradient of {_listed(names, watched.gradient)}, at a loss of {metrics.loss:.4g}"
    return f"the new value of {_listed(names, watched.value)}, after a gradient of norm {watched.norm:.4g}"


def _of_layers(values: np.ndarray) -> np.ndarray:
    return np.isfinite(values.reshape(len(values), -1)).all(1)


def _listed(names: Sequence[str], good: np.ndarray) -> str:
    bad = [name for name, fine in zip(names, good, strict=True) if not fine]
    more = f" and {len(bad) - 3} more of {len(names)} parameters" if len(bad) > 3 else ""
    return ", ".join(bad[:3]) + more


def _operation(fit: "Fit", start: int, step: int) -> str:
    """The first operation of a step that makes a NaN."""
    if fit.parallel.mesh is not None:
        return "--debug.nans looks at operations on one device alone; go on there by --parallel.data 1."
    for _ in _again(fit, start, step - 1):
        pass
    before = jnp.int32(step - 1)
    batch = fit.feed(fit.examples(step - 1, step), fit.keys.order, before)(before)
    key = jax.random.fold_in(fit.keys.augment, before)
    return operation(fit.parallel.objective(fit.config), fit.state.model, batch, key)


def operation(objective: Objective, model: nnx.Module, batch: Batch, key: Array) -> str:
    """A sentence on the first operation of a step that makes a NaN, with its line; each is run and looked at by itself.

    Seconds to minutes, since nothing is compiled as a whole.
    """

    def loss(learnt: nnx.Module) -> Array:
        return objective(with_parameters(model, learnt), batch, key)[0]

    try:
        with jax.debug_nans(True), jax.disable_jit():
            jax.value_and_grad(loss)(parameters(model))
    except FloatingPointError as error:
        return f"--debug.nans: {str(error).splitlines()[0].rstrip('.')}, in {_line(error)}."
    return "--debug.nans: operation by operation none makes a NaN; what is not finite is infinite."


def _line(error: BaseException) -> str:
    """The innermost line of this library; of a backward pass, that of the operation that it differentiates."""
    forward = getattr(error.__cause__, "__traceback__", None) or error.__traceback__
    frames = [frame for frame in traceback.extract_tb(forward) if frame.filename.startswith(_LIBRARY)]
    own = [frame for frame in frames if frame.filename != __file__] or frames
    return f"{own[-1].filename}, line {own[-1].lineno}: {own[-1].line}" if own else "no line of moejax"
