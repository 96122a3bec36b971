"""Grouped matrix products on CPUs outside XLA: run by run, where the rows lie, one run on each core.

XLA knows no product of a number of rows that is not known before it compiles. A library of products (BLAS) does, and is
faster than XLA.
"""

import re
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.buffer_callback import buffer_callback
from jaxtyping import Array, DTypeLike, Float, Int, Shaped

from moejax.kernels import blas_threads


def serves(dtype: DTypeLike) -> bool:
    """Whether there is a fast product of such numbers."""
    return blas_threads.serves(jnp.dtype(dtype))


def matmul(
    x: Float[Array, "r d"],
    w: Float[Array, "e d_or_h h_or_d"],
    starts: Int[Array, " e"],
    sizes: Int[Array, " e"],
    transposed: bool,
) -> Float[Array, "r h"]:
    """`grouped_matmul`, without a derivative, of runs that start there: in order, with or without rows between them."""
    y = jax.ShapeDtypeStruct((len(x), w.shape[1] if transposed else w.shape[2]), x.dtype)
    flops = 2 * len(x) * w.shape[1] * w.shape[2]
    return numpy_call(_fill_products_transposed if transposed else _fill_products, y, x, w, starts, sizes, flops=flops)


def outer(
    x: Float[Array, "r d"], dy: Float[Array, "r h"], starts: Int[Array, " e"], sizes: Int[Array, " e"]
) -> Float[Array, "e d h"]:
    """`grouped_outer`, without a derivative, of runs that start there."""
    dw = jax.ShapeDtypeStruct((len(sizes), x.shape[1], dy.shape[1]), x.dtype)
    return numpy_call(_fill_outers, dw, x, dy, starts, sizes, flops=2 * len(x) * x.shape[1] * dy.shape[1])


def _fill_products(x: np.ndarray, w: np.ndarray, starts: np.ndarray, sizes: np.ndarray, y: np.ndarray) -> None:
    last = 0
    for start, size in zip(starts, sizes, strict=True):
        y[last:start] = 0
        last = start + size
    y[last:] = 0
    blas_threads.run(partial(_fill_product, x, w, starts, y), _pieces(sizes, sizes))


def _fill_products_transposed(
    x: np.ndarray, w: np.ndarray, starts: np.ndarray, sizes: np.ndarray, y: np.ndarray
) -> None:
    _fill_products(x, w.swapaxes(1, 2), starts, sizes, y)


def _fill_product(x: np.ndarray, w: np.ndarray, starts: np.ndarray, y: np.ndarray, piece: tuple[int, int, int]) -> None:
    e, low, high = piece
    rows = slice(starts[e] + low, starts[e] + high)
    blas_threads.multiply(x[rows], w[e], y[rows])


def _fill_outers(x: np.ndarray, dy: np.ndarray, starts: np.ndarray, sizes: np.ndarray, dw: np.ndarray) -> None:
    pieces = _pieces(sizes, np.full_like(sizes, x.shape[1]))
    blas_threads.run(partial(_fill_outer, x, dy, starts, sizes, dw), pieces)


def _fill_outer(
    x: np.ndarray,
    dy: np.ndarray,
    starts: np.ndarray,
    sizes: np.ndarray,
    dw: np.ndarray,
    piece: tuple[int, int, int],
) -> None:
    e, low, high = piece
    rows = slice(starts[e], starts[e] + sizes[e])
    blas_threads.multiply(x[rows, low:high].T, dy[rows], dw[e, low:high])


def _pieces(sizes: np.ndarray, lengths: np.ndarray) -> list[tuple[int, int, int]]:
    """(expert, from, to) of parts of its length: one, or as many as its run is half shares of a core long."""
    share = max(1, int(sizes.sum()) // (2 * blas_threads.cores()))
    pieces = []
    for e, (size, length) in enumerate(zip(sizes.tolist(), lengths.tolist(), strict=True)):
        parts = max(1, -(-size // share))
        bounds = [length * i // parts for i in range(parts + 1)]
        pieces += [(e, low, high) for low, high in pairwise(bounds)]
    return pieces


def numpy_call(
    f: Callable[..., None], result: jax.ShapeDtypeStruct, *arguments: Shaped[Array, "..."], flops: int = 0
) -> Shaped[Array, "..."]:
    """Let a program on CPU call the Python function `f`, which fills an array of `result`'s shape and type.

    `f` gets the arguments and that array as NumPy arrays, none of them copied; it must not write to the arguments.
    `flops`: what it computes, for `flops` below.
    """

    def callback(context: object, out: object, *buffers: object) -> None:
        f(*map(np.asarray, buffers), np.asarray(out))

    with jax.named_scope(f"numpy_flops_{flops}"):
        return buffer_callback(callback, result)(*arguments)


def flops(compiled: jax.stages.Compiled) -> float:
    """FLOPs of a program: those that XLA counts, and those that its calls of NumPy say of themselves."""
    calls = re.findall(r'custom_call_target="xla_buffer_python.*numpy_flops_(\d+)', compiled.as_text())
    return compiled.cost_analysis()["flops"] + sum(map(int, calls))
