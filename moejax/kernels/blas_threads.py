"""Matrix products on CPUs by a library of products (BLAS), one on each core at once.

The library is a copy of OpenBLAS that nobody else in the process uses, limited to the thread that calls it. NumPy's own
would take all cores for one product after the other; its threads then wait at full speed for the next one, for longer
than a layer takes; and how many it has is a setting of the whole process, which is not a library's to change.
"""

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from threading import Lock

import numpy as np
from jaxtyping import DTypeLike
from numpy import ndarray

_ROWS, _AS_IT_IS, _TRANSPOSED = 101, 111, 112  # cblas: arrays are row by row; an operand is taken as ...
_NAMES = {np.dtype(np.float32): ("sgemm", ctypes.c_float), np.dtype(np.float64): ("dgemm", ctypes.c_double)}

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


def multiply(a: ndarray, b: ndarray, out: ndarray) -> None:
    """out = a · b of 2-d arrays of one type, each of them row by row or, but for `out`, the transpose of such a one."""
    name, number = _NAMES[out.dtype]
    (rows, terms), columns = a.shape, b.shape[1]
    if not rows or not columns:
        return
    if not terms:
        out[:] = 0
        return
    _product(name, number)(
        *(_ROWS, _taken(a), _taken(b), rows, columns, terms, 1.0),
        *(a.ctypes.data, _stride(a), b.ctypes.data, _stride(b), 0.0, out.ctypes.data, _stride(out)),
    )


def run(product: Callable[..., None], pieces: Iterable[tuple]) -> None:
    """`product` of each of the pieces, in any order, many at once."""
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
def _product(name: str, number: type) -> Callable[..., None]:
    whole, array = ctypes.c_int, ctypes.c_void_p
    gemm = getattr(_library(), f"scipy_cblas_{name}")
    gemm.argtypes = [*[whole] * 6, number, *(array, whole) * 2, number, array, whole]
    gemm.restype = None
    return gemm


def _taken(a: ndarray) -> int:
    return _AS_IT_IS if a.strides[1] == a.itemsize else _TRANSPOSED


def _stride(a: ndarray) -> int:
    """From one row, or column, to the next, in numbers."""
    row, column = a.strides
    if _taken(a) == _AS_IT_IS:
        return max(row // a.itemsize, a.shape[1])
    return max(column // a.itemsize, a.shape[0])
