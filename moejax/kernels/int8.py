"""Products of rows and a matrix of whole numbers of 8 bits, which is read as it is kept.

The matrix becomes the rows' type piece by piece, and a piece is multiplied while it lies in the processor's cache: of a
large matrix a quarter of the bytes come from memory.

Axis letters: n rows, d and h widths.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Int8, Shaped

from moejax.kernels import bfloat16
from moejax.widening import wide

PIECE = 256  # inputs
FEW = 16  # rows per matrix, up to which that is sooner: 1.5 times with 8, not with 32


def matmul(x: Float[Array, "n d"], w: Int8[Array, "e d h"], e: Int[Array, ""]) -> Float[Array, "n h"]:
    """x · w[e], added up in float32."""
    (n, d), h = x.shape, w.shape[2]
    inputs = min(PIECE, d)

    def product(first, inputs):
        piece = lax.dynamic_slice(w, (e, first, 0), (1, inputs, h))[0].astype(x.dtype)
        return bfloat16.matmul(lax.dynamic_slice_in_dim(x, first, inputs, axis=1), piece)

    y = jnp.zeros((n, h), wide(x.dtype))
    y = lax.fori_loop(0, d // inputs, lambda i, y: y + product(i * inputs, inputs), y)
    rest = d % inputs
    return y + product(d - rest, rest) if rest else y


def pays(x: Float[Array, "r _"], w: Shaped[Array, "..."]) -> bool:
    """Whether matrices are int8 and rows so few that reading those costs more than multiplying by them."""
    return w.dtype == jnp.int8 and len(x) <= FEW * len(w)
