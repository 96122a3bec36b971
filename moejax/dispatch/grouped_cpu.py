"""Grouped matrix products on CPUs: by NumPy where it has a fast product, by blocks of rows where it has none.

`lax.ragged_dot` is a masked dense product there, E times the work. Each of the two is a module grouped_NAME with
`matmul` and `outer` of runs of rows.
"""

from collections.abc import Callable
from types import ModuleType

import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, DTypeLike, Float, Int

from moejax.dispatch import grouped_blocks, grouped_numpy


def matmul(
    x: Float[Array, "r d"], w: Float[Array, "e d_or_h h_or_d"], sizes: Int[Array, " e"], transposed: bool = False
) -> Float[Array, "r h"]:
    """`grouped_matmul`, without a derivative."""
    return (_product_transposed if transposed else _product)(x, w, jnp.cumsum(sizes) - sizes, sizes)


def outer(x: Float[Array, "r d"], dy: Float[Array, "r h"], sizes: Int[Array, " e"]) -> Float[Array, "e d h"]:
    """`grouped_outer`, without a derivative."""
    return _outer(x, dy, jnp.cumsum(sizes) - sizes, sizes)


def chosen(dtype: DTypeLike) -> ModuleType:
    """What computes products of such numbers."""
    return grouped_numpy if grouped_numpy.serves(dtype) else grouped_blocks


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


_product = _folded(lambda x, w, starts, sizes: chosen(x.dtype).matmul(x, w, starts, sizes, False))
_product_transposed = _folded(lambda x, w, starts, sizes: chosen(x.dtype).matmul(x, w, starts, sizes, True))
_outer = _folded(lambda x, dy, starts, sizes: chosen(x.dtype).outer(x, dy, starts, sizes))
