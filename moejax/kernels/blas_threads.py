"""Matrix products on CPUs by a library of products (BLAS), one on each core at once.

The library is a copy of OpenBLAS that nobody else in the process uses, limited to the thread that calls it. NumPy's own
would take all cores for one product after the other; its threads then wait at full speed for the next one, for longer
than a layer takes; and how many it has is a setting of the whole process, which is not a library's to change.
"""

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from threading import Lock
from typing import NamedTuple

import numpy as np
from jaxtyping import DTypeLike
from numpy import ndarray

_ROWS, _AS_IT_IS, _TRANSPOSED = 101, 111, 112  # cblas: arrays are row by row; an operand is taken as ...
_NAMES = {np.dtype(np.float32): ("s", ctypes.c_float), np.dtype(np.float64): ("d", ctypes.c_double)}

_ALONE = 3 * 10**7  # FLOPs that one core has done by the time others are awake

# XLA calls for several products at once. Each takes all cores in its turn.
_one_at_a_time = Lock()


def cores() -> int:
    """How many cores this process may use, which are fewer than the machine's for one that was pinned to some.

    As many products are made at once.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serves(dtype: DTypeLike) -> bool:
    """Whether the library is there and has a product of such numbers."""
    return np.dtype(dtype) in _NAMES and _library() is not None


class Operand(NamedTuple):
    """A matrix [m, n], or rows or columns of a larger one, as the library takes it."""

    address: int
    taken: int  # _AS_IT_IS or _TRANSPOSED
    stride: int  # from one row, or column, to the next, in numbers

    @classmethod
    def of(cls, a: ndarray) -> "Operand":
        """An array that lies row by row, or is the transpose of such a one."""
        (m, n), (row, column) = a.shape, a.strides
        if column == a.itemsize:
            return cls(a.ctypes.data, _AS_IT_IS, max(row // a.itemsize, n))
        return cls(a.ctypes.data, _TRANSPOSED, max(column // a.itemsize, m))


def multiplier(a: Operand, b: Operand, out: Operand, dtype: DTypeLike) -> Callable[..., None]:
    """`multiply(m, n, k, i, j, o)`: out [m, n] = a [m, k] · b [k, n], which begin so many bytes behind the operands.

    None of them may be empty. Numbers rather than arrays: to take an array apart takes as long as a small product.
    """
    product, of_row = _products(*_NAMES[np.dtype(dtype)])
    # A row times b is bᵀ times a column.
    turned, step = _TRANSPOSED if b.taken == _AS_IT_IS else _AS_IT_IS, 1 if a.taken == _AS_IT_IS else a.stride

    def multiply(m: int, n: int, k: int, i: int, j: int, o: int) -> None:
        i, j, o = a.address + i, b.address + j, out.address + o
        if m == 1:
            size = (k, n) if b.taken == _AS_IT_IS else (n, k)
            of_row(_ROWS, turned, *size, 1.0, j, b.stride, i, step, 0.0, o, 1)
        else:
            product(_ROWS, a.taken, b.taken, m, n, k, 1.0, i, a.stride, j, b.stride, 0.0, o, out.stride)

    return multiply


def run(product: Callable[..., None], pieces: Sequence[tuple], flops: int) -> None:
    """`product` of each of the pieces, in any order; many at once, if the FLOPs of all are worth waking threads for."""
    if flops < _ALONE or cores() == 1:
        for piece in pieces:
            product(*piece)
        return
    waiting = iter(pieces)  # whoever is free takes the next
    with _one_at_a_time:
        others = [_threads().submit(_work, product, waiting) for _ in range(cores() - 1)]
        try:
            _work(product, waiting)
        finally:
            # A thread that has not woken up by now finds nothing left to do.
            started = [other for other in others if not other.cancel()]
            wait(started)
        for other in started:
            other.result()  # raises what it raised


def _work(product: Callable[..., None], waiting: Iterator[tuple]) -> None:
    for piece in waiting:
        product(*piece)


@cache
def _threads() -> ThreadPoolExecutor:
    # One pool for good: of two, made by calls that overlap, one would go and its threads with it.
    return ThreadPoolExecutor(max(1, cores() - 1), thread_name_prefix="moejax-blas")


@cache
def _library() -> ctypes.CDLL | None:
    try:
        import scipy_openblas32 as openblas

        library = ctypes.CDLL(os.path.join(openblas.get_lib_dir(), openblas.get_library(fullname=True)))
    except (ImportError, OSError):
        return None
    library.scipy_openblas_set_num_threads(1)
    return library


@cache
def _products(letter: str, number: type) -> tuple[Callable[..., None], Callable[..., None]]:
    """Of two matrices, and of a matrix and a vector, which for one row is twice as fast."""
    whole, array = ctypes.c_int, ctypes.c_void_p
    gemm, gemv = (getattr(_library(), f"scipy_cblas_{letter}{name}") for name in ("gemm", "gemv"))
    gemm.argtypes = [*[whole] * 6, number, *(array, whole) * 2, number, array, whole]
    gemv.argtypes = [*[whole] * 4, number, *(array, whole) * 2, number, array, whole]
    gemm.restype = gemv.restype = None
    return gemm, gemv
