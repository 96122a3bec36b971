"""Grouped matrix products on CPUs: by BLAS where it has a product of such numbers, by blocks of rows where it has none.

An exported program may run in another process, and calls none of this one's Python: blocks of rows as well. Where the
number of rows is open, `lax.ragged_dot`: a masked dense product, E times the work. Each of the two is a module
cpu_NAME with `matmul` and `outer` of runs of rows.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType

import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, DTypeLike, Float, Int

from moejax.kernels import cpu_blas, cpu_blocks, ragged
from moejax.kernels.multilinear import Lowering


def matmul(
    lowering: Lowering,
    x: Float[Array, "r d"],
    w: Float[Array, "e d_or_h h_or_d"],
    sizes: Int[Array, " e"],
    *,
    transposed: bool = False,
) -> Float[Array, "r h"]:
    """`grouped_matmul`, without a derivative."""
    if not isinstance(x.shape[0], int):  # exported with an open batch size
        return ragged.matmul(x, w, sizes, transposed)
    product = partial(chosen(lowering, x.dtype).matmul, transposed=transposed)
    return _folded(product)(x, w, jnp.cumsum(sizes) - sizes, sizes)


def outer(
    lowering: Lowering, x: Float[Array, "r d"], dy: Float[Array, "r h"], sizes: Int[Array, " e"]
) -> Float[Array, "e d h"]:
    """`grouped_outer`, without a derivative."""
    if not isinstance(x.shape[0], int):
        return ragged.outer(x, dy, sizes)
    return _folded(chosen(lowering, x.dtype).outer)(x, dy, jnp.cumsum(sizes) - sizes, sizes)


def chosen(lowering: Lowering, dtype: DTypeLike) -> ModuleType:
    """What computes products of such numbers, in such a program."""
    return cpu_blas if cpu_blas.serves(dtype) and not lowering.exported else cpu_blocks


def _folded(product: Callable) -> Callable:
    """Let vmap of `product(a, b, starts, sizes)` be one product of more rows and more runs.

    Without it loops over runs would go in lock-step, for as many turns as the longest of the batch needs.
    """
    product = custom_vmap(product)

    @product.def_vmap
    def of_batch(batch, is_batched, a, b, starts, sizes):
        whole = [
            value if mapped else jnp.broadcast_to(value, (batch, *value.shape))
            for value, mapped in zip((a, b, starts, sizes), is_batched, strict=True)
        ]
        whole[2] += whole[0].shape[1] * jnp.arange(batch, dtype=starts.dtype)[:, None]
        out = product(*(value.reshape(-1, *value.shape[2:]) for value in whole))
        return out.reshape(batch, -1, *out.shape[1:]), True

    return product
