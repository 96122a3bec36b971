"""Grouped matrix products on Hopper GPUs, by the Pallas kernels that come with JAX, compiled by Mosaic.

They read whole tiles by the GPU's own copy engine: numbers of 16 bits, widths that tiles divide.
"""

import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int

_BLOCKS = {"block_m": 128, "block_n": 128, "block_k": 64, "max_concurrent_steps": 4, "grid_block_n": 1}


def fits(d: int, h: int, dtype: DTypeLike) -> bool:
    """Whether these kernels can multiply rows of d by d × h."""
    return jnp.dtype(dtype).itemsize == 2 and d % 128 == 0 and h % 128 == 0


def matmul(
    x: Float[Array, "r d"], w: Float[Array, "e d_or_h h_or_d"], sizes: Int[Array, " e"], transposed: bool = False
) -> Float[Array, "r h"]:
    """`grouped_matmul`, without a derivative."""
    from jax.experimental.pallas.ops.gpu.ragged_dot_mgpu import ragged_dot

    y = ragged_dot(x, w, group_sizes=sizes, transpose_rhs=transposed, **_BLOCKS)
    return jnp.where(jnp.arange(len(x))[:, None] < sizes.sum(), y, 0)  # the kernel leaves other rows as they were


def outer(x: Float[Array, "r d"], dy: Float[Array, "r h"], sizes: Int[Array, " e"]) -> Float[Array, "e d h"]:
    """`grouped_outer`, without a derivative."""
    from jax.experimental.pallas.ops.gpu.transposed_ragged_dot_mgpu import transposed_ragged_dot

    out = transposed_ragged_dot(x, dy, group_sizes=sizes, **_BLOCKS)
    return jnp.where((sizes > 0)[:, None, None], out, 0)
