"""NaN and infinity: a run ends at the first one, with a sentence that names the most likely cause."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree
from numpy import ndarray

from moejax.config import Config, chosen
from moejax.errors import UserError
from moejax.training.processes import any_of

_RATE = "train.learning_rate"
_REASONABLE = 360  # degrees of a rotation: the largest sensible value of any float that is not a default


def all_finite(tree: PyTree) -> bool:
    """Whether all numbers of all processes are finite; looked at on the host, where a checkpoint needs them anyway."""
    floats = (a for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.floating))
    return not any_of(not all(np.isfinite(s.data).all() for a in floats for s in a.addressable_shards))


def finite(tree: PyTree[Array]) -> Bool[Array, ""]:
    """Whether all numbers are finite, within a program."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def finite_rows(columns: PyTree[ndarray]) -> Bool[ndarray, " n"]:
    """Which rows have only finite numbers in all columns [n, ...]."""
    columns = jax.tree.leaves(columns)
    return np.all([np.isfinite(column.reshape(len(column), -1)).all(1) for column in columns], axis=0)


def not_finite(what: str, *found: str, config: Config, learnt: bool, kept: object) -> UserError:
    """The sentences for `what` is not finite, then on what was found of it.

    `learnt`: some steps were taken, so the learning rate may be the cause.
    """
    values = {name: value for name, value in chosen(config).items() if isinstance(value, float) and name != _RATE}
    extreme = [name for name, value in values.items() if abs(value) > _REASONABLE]
    rate = config.train.learning_rate
    if learnt and (not extreme or rate > _REASONABLE):
        extreme.insert(0, _RATE)
    named = " and ".join(f"{name} ({(values | {_RATE: rate})[name]:g})" for name in extreme)
    cause = f"lower {named}" if named else "nothing had been learnt yet, so look at the data and the options of moe.*"
    return UserError(f"{what}; {cause}. {kept} keeps what came before.", *found)
