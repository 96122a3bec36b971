"""What gradient descent moves: a model's parameters, told from its other variables by their type.

A router's balancing bias, an annealed temperature, a counter or a key are no `nnx.Param`: nothing decays, averages or
counts them, and they need not be numbers that have a gradient.
"""

from typing import Any, TypeVar

import jax
from flax import nnx
from jaxtyping import PyTree

M = TypeVar("M", bound=nnx.Module)


def parameters(model: M) -> M:
    """The module with its parameters alone: None in place of every other variable and array."""
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, nnx.Param) else None, model, is_leaf=_is_variable)


def with_parameters(model: M, learnt: M) -> M:
    """The module with these parameters, as `parameters` gives them, and all else as it has it."""

    def pick(new: nnx.Param | None, old: object) -> object:
        return old if new is None else new

    return jax.tree.map(pick, learnt, model, is_leaf=lambda leaf: leaf is None or _is_variable(leaf))


def decays(learnt: PyTree) -> PyTree[bool]:
    """Which parameters weight decay acts on: matrices, not biases, scales and constants.

    As in `optax.adamw(…, mask=moejax.decays)`.

    The number of axes alone does not tell: a stack of experts has biases [e, h]. Of layers that are stacked themselves,
    as for `nnx.scan`, vectors by other names, such as a `gamma` [l, h], count as matrices.

    `learnt`: a module with its parameters alone, or an `nnx.State` of them.
    """

    def is_matrix(path: tuple, leaf: Any) -> bool:
        names = {str(getattr(key, "name", getattr(key, "key", ""))) for key in path}
        return leaf.ndim - ("experts" in names) > 1 and not {"bias", "scale", "constant"} & names

    return jax.tree.map_with_path(is_matrix, learnt)


def _is_variable(leaf: object) -> bool:
    return isinstance(leaf, nnx.Variable)
