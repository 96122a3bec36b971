"""Grouped matrix products on CPUs outside XLA: group by group, where the rows lie, one group on each core.

XLA knows no product of a number of rows that is not known before it compiles. A library of products (BLAS) does, and is
faster than XLA. Narrow numbers are multiplied as float32 ones, unless the processor has units for them.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float
from numpy import ndarray

from moejax.kernels import blas_threads, numpy_calls
from moejax.kernels.bfloat16 import has_units
from moejax.kernels.blas_threads import Operand
from moejax.kernels.groups import Groups
from moejax.kernels.numpy_calls import called_by_name, numpy_call
from moejax.widening import wide

_READ = 10  # rows are multiplied by a matrix in the time that it takes to read it


def serves(dtype: DTypeLike) -> bool:
    """Whether this is the fastest product of such numbers."""
    narrow = jnp.dtype(dtype) == jnp.bfloat16 and has_units()
    return blas_threads.serves(wide(dtype)) and numpy_calls.works() and not narrow


def matmul(
    x: Float[Array, "r d"], w: Float[Array, "e d_or_h h_or_d"], groups: Groups, transposed: bool
) -> Float[Array, "r h"]:
    """`grouped_matmul`, without a derivative or vmap."""
    y = jax.ShapeDtypeStruct((len(x), w.shape[1] if transposed else w.shape[2]), wide(x.dtype))
    flops = 2 * len(x) * w.shape[1] * w.shape[2]
    fill = _fill_products_with_transposes if transposed else _fill_products
    return numpy_call(fill, y, x.astype(y.dtype), w.astype(y.dtype), *groups, flops=flops).astype(x.dtype)


def outer(x: Float[Array, "r d"], dy: Float[Array, "r h"], groups: Groups) -> Float[Array, "e d h"]:
    """`grouped_outer`, without a derivative or vmap."""
    dw = jax.ShapeDtypeStruct((len(groups.sizes), x.shape[1], dy.shape[1]), wide(x.dtype))
    flops = 2 * len(x) * x.shape[1] * dy.shape[1]
    return numpy_call(_fill_outers, dw, x.astype(dw.dtype), dy.astype(dw.dtype), *groups, flops=flops).astype(x.dtype)


@called_by_name("moejax_grouped_products_with_transposes")
def _fill_products_with_transposes(x: ndarray, w: ndarray, starts: ndarray, sizes: ndarray, y: ndarray) -> None:
    _fill_products(x, w.swapaxes(1, 2), starts, sizes, y)


@called_by_name("moejax_grouped_products")
def _fill_products(x: ndarray, w: ndarray, starts: ndarray, sizes: ndarray, y: ndarray) -> None:
    if not (x.size and w.size):
        y[:] = 0
        return
    _check_inside(x, starts, sizes)
    first, last = starts.tolist(), 0
    for start, size in zip(first, sizes.tolist(), strict=True):
        y[last:start] = 0
        last = start + size
    y[last:] = 0
    d, h = w.shape[1:]
    multiply = blas_threads.multiplier(Operand.of(x), Operand.of(w[0]), Operand.of(y), y.dtype)
    row_of_x, matrix, row_of_y = x.strides[0], w.strides[0], y.strides[0]

    def fill(e: int, low: int, high: int) -> None:
        row = first[e] + low
        multiply(high - low, h, d, row * row_of_x, e * matrix, row * row_of_y)

    rows = max(int(sizes.sum()), _READ * int((sizes > 0).sum()))
    blas_threads.run(fill, _pieces(sizes, sizes), flops=2 * rows * d * h)


@called_by_name("moejax_grouped_outers")
def _fill_outers(x: ndarray, dy: ndarray, starts: ndarray, sizes: ndarray, dw: ndarray) -> None:
    dw[sizes == 0] = 0
    if not (x.size and dy.size):
        return
    _check_inside(x, starts, sizes)
    d, h = dw.shape[1:]
    multiply = blas_threads.multiplier(Operand.of(x.T), Operand.of(dy), Operand.of(dw[0]), dw.dtype)
    first, terms, (matrix, row_of_dw, number) = starts.tolist(), sizes.tolist(), dw.strides
    row_of_x, row_of_dy = x.strides[0], dy.strides[0]

    def fill(e: int, low: int, high: int) -> None:
        row = first[e]
        i, o = row * row_of_x + low * number, e * matrix + low * row_of_dw
        multiply(high - low, h, terms[e], i, row * row_of_dy, o)

    blas_threads.run(fill, _pieces(sizes, np.where(sizes, d, 0)), flops=2 * int(sizes.sum()) * d * h)


def _check_inside(x: ndarray, starts: ndarray, sizes: ndarray) -> None:
    """BLAS asks for no bounds: beyond the rows it would read, and write, whatever lies there."""
    last = int((starts + sizes).max())
    if last > len(x) or starts.min() < 0 or sizes.min() < 0:
        raise ValueError(f"the groups end at row {last}, but there are {len(x)} rows")


def _pieces(sizes: ndarray, lengths: ndarray) -> list[tuple[int, int, int]]:
    """(expert, from, to) of parts of its length: one, or as many as its group is half shares of a core long."""
    share = max(1, int(sizes.sum()) // (2 * blas_threads.cores()))
    pieces = []
    for e, (size, length) in enumerate(zip(sizes.tolist(), lengths.tolist(), strict=True)):
        parts = max(1, -(-size // share))
        bounds = [length * i // parts for i in range(parts + 1)]
        pieces += [(e, low, high) for low, high in pairwise(bounds) if low < high]
    return pieces
