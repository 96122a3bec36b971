"""Grouped matrix products by `lax.ragged_dot`, or by what has its signature.

XLA's own is fast on TPUs, a masked dense product on CPUs (E times the work) and slow on most GPUs. The faster lowering
for GPUs that JAX had a flag for until 0.11 was in none of its wheels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float

from moejax.kernels.groups import Groups


def matmul(
    x: Float[Array, "r d"],
    w: Float[Array, "e d_or_h h_or_d"],
    groups: Groups,
    transposed: bool,
    dot: Callable[..., Array] = lax.ragged_dot,
) -> Float[Array, "r h"]:
    """`grouped_matmul`, without a derivative."""

    @sequential_vmap  # `dot` may know no other vmap
    def product(x, w, groups):
        if not transposed:
            return dot(x, w, groups.sizes)
        of = jnp.zeros((x.shape[0], w.shape[1]), x.dtype)
        return jax.vjp(lambda x: dot(x, w, groups.sizes), of)[1](x)[0]

    return jnp.where(groups.hold(x.shape[0]), product(x, w, groups), 0)


def outer(
    x: Float[Array, "r d"], dy: Float[Array, "r h"], groups: Groups, dot: Callable[..., Array] = lax.ragged_dot
) -> Float[Array, "e d h"]:
    """`grouped_outer`, without a derivative."""

    @sequential_vmap
    def product(x, dy, groups):
        of = jnp.zeros((len(groups.sizes), x.shape[1], dy.shape[1]), x.dtype)
        return jax.vjp(lambda w: dot(x, w, groups.sizes), of)[1](dy)[0]

    return jnp.where((groups.sizes > 0)[:, None, None], product(x, dy, groups), 0)
