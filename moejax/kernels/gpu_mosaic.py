"""Grouped matrix products on Hopper GPUs, by the Pallas kernels that come with JAX, compiled by Mosaic.

They read whole tiles by the GPU's own copy engine: numbers of 16 bits, widths that tiles divide.
"""

import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jax.experimental.pallas.ops.gpu.ragged_dot_mgpu import ragged_dot
from jax.experimental.pallas.ops.gpu.transposed_ragged_dot_mgpu import transposed_ragged_dot
from jaxtyping import Array, DTypeLike, Float

from moejax.kernels.groups import Groups

_BLOCKS = {"block_m": 128, "block_n": 128, "block_k": 64, "max_concurrent_steps": 4, "grid_block_n": 1}


def fits(dtype: DTypeLike, *widths: int) -> bool:
    """Whether these kernels can multiply rows and matrices of these widths."""
    return jnp.dtype(dtype).itemsize == 2 and all(width % 128 == 0 for width in widths)


def matmul(
    x: Float[Array, "r d"], w: Float[Array, "e d_or_h h_or_d"], groups: Groups, transposed: bool
) -> Float[Array, "r h"]:
    """`grouped_matmul`, without a derivative."""

    @sequential_vmap
    def product(x, w, groups):
        y = ragged_dot(x, w, group_sizes=groups.sizes, transpose_rhs=transposed, **_BLOCKS)
        return jnp.where(groups.hold(len(x)), y, 0)  # the kernel leaves other rows as they were

    return product(x, w, groups)


@sequential_vmap
def outer(x: Float[Array, "r d"], dy: Float[Array, "r h"], groups: Groups) -> Float[Array, "e d h"]:
    """`grouped_outer`, without a derivative."""
    out = transposed_ragged_dot(x, dy, group_sizes=groups.sizes, **_BLOCKS)
    return jnp.where((groups.sizes > 0)[:, None, None], out, 0)
