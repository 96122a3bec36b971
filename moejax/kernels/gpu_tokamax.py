"""Grouped matrix products on GPUs by tokamax, where it is installed: its choice of kernel, in the end XLA's own."""

from jaxtyping import Array, DTypeLike, Float
from tokamax import ragged_dot

from moejax.kernels import ragged
from moejax.kernels.groups import Groups


def fits(dtype: DTypeLike, *widths: int) -> bool:
    """Whether it can multiply rows and matrices of these widths: any."""
    return True


def matmul(
    x: Float[Array, "r d"], w: Float[Array, "e d_or_h h_or_d"], groups: Groups, transposed: bool
) -> Float[Array, "r h"]:
    """`grouped_matmul`, without a derivative."""
    return ragged.matmul(x, w, groups, transposed, ragged_dot)


def outer(x: Float[Array, "r d"], dy: Float[Array, "r h"], groups: Groups) -> Float[Array, "e d h"]:
    """`grouped_outer`, without a derivative."""
    return ragged.outer(x, dy, groups, ragged_dot)
