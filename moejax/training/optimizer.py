"""The optimiser: AdamW, Adam, normalised descent or one of optax; linear warm-up, a schedule, an early stop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from moejax.config import optax_by_name
from moejax.config.training import TrainOptions
from moejax.parameters import decays
from moejax.training.average import average_parameters
from moejax.training.early_stop import early_stop
from moejax.training.frozen import leave_out


def learning_rate_schedule(train: TrainOptions, steps: int) -> optax.Schedule:
    """Learning rate by step: up from 0 over the first `warmup` share of `steps`, then what `schedule` says."""
    warmup, peak = int(train.warmup * steps), train.learning_rate
    if train.schedule == "constant":
        return optax.warmup_constant_schedule(0.0 if warmup else peak, peak, warmup)
    return optax.warmup_cosine_decay_schedule(0.0 if warmup else peak, peak, warmup, steps)


def make_optimizer(train: TrainOptions, steps: int, *, flat: bool = True) -> optax.GradientTransformationExtraArgs:
    """The optimiser that `train.optimizer` names; its update takes the loss as `value`.

    `flat`: AdamW treats all parameters as one vector, which is faster but cannot be sharded by expert.
    """
    schedule = learning_rate_schedule(train, steps)
    if train.optimizer == "normalized":
        descend = normalized_gradient_descent(schedule, train.router_learning_rate / train.learning_rate)
    elif train.optimizer == "adam":
        decay = optax.add_decayed_weights(train.weight_decay)
        descend = optax.chain(decay, optax.scale_by_adam(), optax.scale_by_learning_rate(schedule))
    elif train.optimizer == "adamw":
        descend = _adamw(train, schedule, flat)
    else:
        descend = _of_optax(train, schedule)
    optimizer = leave_out(descend, train.frozen)
    if train.average:
        optimizer = optax.chain(optimizer, average_parameters(train.average))
    if train.stop_rise is not None or train.stop_below is not None:
        optimizer = early_stop(optimizer, train.stop_rise, train.stop_below)
    return optax.with_extra_args_support(optimizer)


def _adamw(train: TrainOptions, schedule: optax.Schedule, flat: bool) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019); decay acts on matrices only, not on biases, scales and normalisation."""
    adam = optax.chain(_clip(train), optax.scale_by_adam())
    return optax.chain(
        # One vector: else the program has its own piece for every parameter.
        optax.flatten(adam) if flat else adam,
        optax.add_decayed_weights(train.weight_decay, mask=decays),
        optax.scale_by_learning_rate(schedule),
    )


def _of_optax(train: TrainOptions, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimiser of optax that is named, on clipped gradients; of what it decays, matrices only."""
    given = optax_by_name.arguments(train.optimizer_arguments)
    decay = dict(weight_decay=train.weight_decay, mask=decays)
    return optax.chain(_clip(train), optax_by_name.make(train.optimizer, given, learning_rate=schedule, **decay))


def _clip(train: TrainOptions) -> optax.GradientTransformation:
    return optax.identity() if train.clip_norm is None else clip_by_global_norm(train.clip_norm)


def clip_by_global_norm(most: float) -> optax.GradientTransformation:
    """Scale a gradient down to that norm (Pascanu et al. 2013), as optax does; where its squares overflow it is NaN.

    By optax it is zero there: nothing would be learnt, and nothing said.
    """

    def clip(updates: PyTree[Array], params: PyTree[Array] | None) -> PyTree[Array]:
        norm = optax.tree.norm(updates)
        norm = jnp.where(jnp.isinf(norm), jnp.nan, norm)
        return jax.tree.map(lambda u: jnp.where(norm < most, u, u / norm.astype(u.dtype) * most), updates)

    return optax.stateless(clip)


def relayout(state: PyTree[Array], like: PyTree[Array]) -> PyTree[Array]:
    """An optimiser's state in the form of `like`: Adam's moments one vector (`flat`) or one array a parameter."""
    if jax.tree.structure(state) == jax.tree.structure(like):
        return state
    if len(jax.tree.leaves(state)) < len(jax.tree.leaves(like)):
        return jax.tree.map(_split, state, like)
    return jax.tree.map(lambda _, part: part if jax.tree_util.all_leaves([part]) else _join(part), like, state)


def _split(vector: Array, like: PyTree[Array]) -> PyTree[Array]:
    leaves, tree = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    parts = jnp.split(vector, ends) if vector.ndim else [vector]
    return tree.unflatten([part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])


def _join(tree: PyTree[Array]) -> Array:
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)])


def normalized_gradient_descent(schedule: optax.Schedule, others: float) -> optax.GradientTransformation:
    """Gradient descent that moves each expert by the learning rate's length (Chen et al. 2022, section 6).

    All other parameters, such as the router's, move by `others` times the learning rate times their gradient.
    """

    def scale(path: tuple, leaf: Array) -> Array:
        return leaf if expert_stack(path) else others * leaf

    other_rate = optax.stateless(lambda updates, params: jax.tree.map_with_path(scale, updates))
    return optax.chain(normalize_experts(), other_rate, optax.scale_by_learning_rate(schedule))


def normalize_experts() -> optax.GradientTransformation:
    """Divide each expert's gradient by its norm, over weights and biases together; a gradient of zeros stays.

    Experts' parameters are those under an attribute `experts`, stacked along their leading axis.
    """

    def normalize(updates: PyTree[Array], params: PyTree[Array] | None) -> PyTree[Array]:
        of_stack: dict[str, list[Float[Array, "e _n"]]] = {}
        for path, leaf in jax.tree.leaves_with_path(updates):
            if stack := expert_stack(path):
                of_stack.setdefault(stack, []).append(leaf.reshape(len(leaf), -1))
        sizes = {stack: _size_and_length(leaves) for stack, leaves in of_stack.items()}

        def divided(path: tuple, leaf: Array) -> Array:
            if not (stack := expert_stack(path)):
                return leaf
            size, length = (of.reshape(-1, *[1] * (leaf.ndim - 1)) for of in sizes[stack])
            return leaf / size / length

        return jax.tree.map_with_path(divided, updates)

    return optax.stateless(normalize)


def _size_and_length(leaves: list[Float[Array, "e _n"]]) -> tuple[Float[Array, " e"], Float[Array, " e"]]:
    """Each expert's largest number, and its norm in that unit, whose squares cannot overflow; 1 and 1 for zeros."""
    largest = jnp.stack([jnp.abs(leaf).max(1, initial=0) for leaf in leaves]).max(0)
    size = jnp.where(largest == 0, 1, largest)
    length = jnp.sqrt(sum(jnp.sum((leaf / size[:, None]) ** 2, axis=1) for leaf in leaves))
    return size, jnp.where(largest == 0, 1, length)


def expert_stack(path: tuple) -> str | None:
    """The path of the stack of experts that a parameter belongs to; None if it belongs to none."""
    before, found, _ = jax.tree_util.keystr(path).partition(".experts.")
    return before + found if found else None
