"""Where the examples of a step come from.

    all     every device holds all training examples, and each step indexes its rows
    share   hosts hold them; before each chunk of steps every process copies only the rows of its own devices

Both give the same examples in the same order. Each epoch draws a new order and cuts it into whole batches; the rest is
left out of that epoch.
"""

from collections.abc import Callable
from functools import lru_cache

import jax
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array, Int, Key

from moejax.data.dataset import Examples, rows
from moejax.training.objective import Batch

Feed = Callable[[Batch, Key[Array, ""], Int[Array, ""]], Callable[[Int[Array, ""]], Batch]]
"""(data, key of the order, first step of a chunk) → a function from a step to its batch; both are traced."""


def epoch_order(key: Key[Array, ""], epoch: Int[Array, ""] | int, examples: int) -> Int[Array, " n"]:
    """The order in which an epoch visits the examples."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), examples)


def place_of(
    step: Int[Array, ""] | int, examples: int, batch_size: int
) -> tuple[Int[Array, ""] | int, Int[Array, ""] | int]:
    """A step's epoch, and the start of its batch in that epoch's order; `step` may be a number or traced."""
    steps_per_epoch = examples // batch_size
    return step // steps_per_epoch, step % steps_per_epoch * batch_size


def from_all(batch_size: int) -> Feed:
    """A feed whose `data` is all training examples, arrays with one leading axis."""

    def feed(data: Batch, key: Key[Array, ""], first: Int[Array, ""]) -> Callable[[Int[Array, ""]], Batch]:
        examples = rows(data)
        order = epoch_order(key, place_of(first, examples, batch_size)[0], examples)

        def batch(step: Int[Array, ""]) -> Batch:
            _, start = place_of(step, examples, batch_size)
            chosen = jax.lax.dynamic_slice(order, (start,), (batch_size,))
            return {name: array[chosen] for name, array in data.items()}

        return batch

    return feed


def from_shares(length: int) -> Feed:
    """A feed whose `data` is the batches of a chunk of up to `length` steps, made by `Shares`."""
    return lambda data, key, first: lambda step: {name: array[step % length] for name, array in data.items()}


class Shares:
    """Makes the batches of a chunk; each device gets its part from its own host."""

    def __init__(self, host: Examples, key: Key[Array, ""], batch_size: int, length: int, where: Sharding):
        self.host, self.batch_size, self.length, self.where = host, batch_size, length, where
        order = jax.jit(epoch_order, static_argnums=2)
        self.order = lru_cache(1)(lambda epoch: np.asarray(order(key, epoch, rows(host))))

    def __call__(self, first: int, stop: int) -> Batch:
        """Arrays [length, batch, ...]: step s, `first` ≤ s < `stop` in one epoch, is row s % length."""
        chosen = np.zeros((self.length, self.batch_size), np.int64)
        for step in range(first, stop):
            epoch, start = place_of(step, rows(self.host), self.batch_size)
            chosen[step % self.length] = self.order(epoch)[start : start + self.batch_size]
        return {name: self._brought(array, chosen) for name, array in self.host.items()}

    def _brought(self, array: np.ndarray, chosen: np.ndarray) -> Array:
        shape = chosen.shape + array.shape[1:]
        return jax.make_array_from_callback(shape, self.where, lambda part: array[chosen[part[:2]]])
