"""Grouped matrix products on GPUs by tokamax, where it is installed: its choice of kernel, in the end XLA's own."""

from functools import partial

from jaxtyping import DTypeLike
from tokamax import ragged_dot

from moejax.kernels import ragged


def fits(dtype: DTypeLike, *widths: int) -> bool:
    """Whether it can multiply rows and matrices of these widths: any."""
    return True


matmul, outer = (partial(product, dot=ragged_dot) for product in (ragged.matmul, ragged.outer))
