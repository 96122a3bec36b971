"""What crosses devices in a step, where each device runs the step on its share of the batch and says so itself.

A program over a mesh needs none of it: its arrays are those of the whole batch, wherever they lie.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
from jaxtyping import Array, Int, Key, PyTree, Shaped


def _same(value: Any) -> Any:
    return value


class Collectives(NamedTuple):
    """Four functions; by default nothing crosses."""

    share: Callable[[Int[Array, " b"]], Int[Array, " n"]] = _same  # of a batch's rows, this device's
    key: Callable[[Key[Array, ""]], Key[Array, ""]] = _same  # a stream of noise of its own
    gather: Callable[[PyTree[Shaped[Array, "g ..."]]], PyTree[Shaped[Array, "g2 ..."]]] = _same  # those of all devices
    mean: Callable[[PyTree[Array]], PyTree[Array]] = _same  # over devices


ALONE = Collectives()


def along(axis: str, devices: int) -> Collectives:
    """Between the devices of a named axis, as `jax.pmap` gives it.

    The derivative of `gather` sums over devices what each makes of a gathered value. So if each device's loss is its
    own share's plus a function of gathered values, the mean of the gradients is that of the whole batch's loss.
    """

    def share(rows: Int[Array, " b"]) -> Int[Array, " n"]:
        size = len(rows) // devices
        return lax.dynamic_slice(rows, (lax.axis_index(axis) * size,), (size,))

    return Collectives(
        share,
        lambda key: jax.random.fold_in(key, lax.axis_index(axis)),
        lambda tree: jax.tree.map(lambda a: lax.all_gather(a, axis, tiled=True), tree),
        lambda tree: lax.pmean(tree, axis),
    )
