"""Groups of rows: the one after the other, each an expert's, of any sizes."""

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Int


class Groups(NamedTuple):
    """The row that each group starts at, and how many rows it has; from row 0 on, without rows between them."""

    starts: Int[Array, " e"]
    sizes: Int[Array, " e"]

    @classmethod
    def of(cls, sizes: Int[Array, " e"]) -> "Groups":
        """Groups of these sizes."""
        sizes = sizes.astype(jnp.int32)  # the only whole numbers that all kernels take
        return cls(jnp.cumsum(sizes, dtype=jnp.int32) - sizes, sizes)

    def hold(self, rows: int) -> Bool[Array, "r 1"]:
        """Which of so many rows are in a group at all."""
        return jnp.arange(rows)[:, None] < self.starts[-1] + self.sizes[-1]

    def of_rows(self, rows: int) -> Int[Array, " r"]:
        """The group that each of so many rows is in; the number of groups for one in none."""
        row = jnp.arange(rows)
        last = jnp.searchsorted(self.starts, row, side="right") - 1
        return jnp.where(row < (self.starts + self.sizes)[last], last, len(self.sizes))


FEW = 1 / 2  # rows per matrix, up to which each row by itself was seen to win: `python -m benchmarks decoding`


def few(rows: int, matrices: int) -> bool:
    """Whether rows are so few that hardly two share a matrix: on a CPU each may as well read its own, row by row."""
    return rows <= FEW * matrices


def folded(product: Callable[..., Array]) -> Callable[..., Array]:
    """Let vmap of `product(a, b, groups)` be one product of more rows.

    Where `b` are matrices that all share, rows are sorted anew; else there are more groups, with rows between them.
    Without it loops over groups would go in lock-step, for as many turns as the longest of the batch needs.
    """

    @custom_vmap
    def of_one(a, b, starts, sizes):
        return product(a, b, Groups(starts, sizes))

    @of_one.def_vmap
    def of_batch(batch, mapped, *arguments):
        b, shared = arguments[1], arguments[1].ndim == 3 and not mapped[1]
        a, b, starts, sizes = (
            value if m or (value is b and shared) else jnp.broadcast_to(value, (batch, *value.shape))
            for value, m in zip(arguments, mapped, strict=True)
        )
        if shared:
            group = jax.vmap(lambda *groups: Groups(*groups).of_rows(a.shape[1]))(starts, sizes)
            order = jnp.argsort(group.reshape(-1))
            out = of_one(a.reshape(-1, a.shape[-1])[order], b, *Groups.of(sizes.sum(0)))
            return out[jnp.argsort(order)].reshape(batch, -1, out.shape[-1]), True
        starts += a.shape[1] * jnp.arange(batch, dtype=starts.dtype)[:, None]
        out = of_one(*(value.reshape(-1, *value.shape[2:]) for value in (a, b, starts, sizes)))
        return out.reshape(batch, -1, *out.shape[1:]), True

    return wraps(product)(lambda a, b, groups: of_one(a, b, *groups))
