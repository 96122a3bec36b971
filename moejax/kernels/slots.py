"""The matrix product of one expert's rows, which knows what to do when it is mapped over all experts.

Under `jax.vmap` over stacked experts it is one batched product. A large one on one CPU a library of products computes
sooner than XLA: as a grouped product whose groups are all of one size.

Axis letters: n rows, d and h widths, e experts.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, Int8, Shaped

from moejax.kernels import bfloat16, blas_threads, cpu_blas, int8
from moejax.kernels.groups import Groups, folded
from moejax.kernels.multilinear import Lowering, products

LARGE = 5e8  # FLOPs from which the library was seen to win


def slot_matmul(x: Float[Array, "n d"], w: Shaped[Array, "d h"]) -> Float[Array, "n h"]:
    """x · w, of operands of one type; or w is int8, which has no derivative."""
    return _matmul(x, w)


_matmul, _matmul_transposed, _outer = products(
    "slot", lambda x, w: x @ w.astype(x.dtype), lambda x, w: x @ w.astype(x.dtype).T, lambda x, dy: x.T @ dy
)


def _on_cpu(
    of_floats: Callable, of_bfloat16: Callable, grouped: Callable, of_int8: Callable | None = None
) -> Callable[..., Array]:
    """The product of operands of a type; but for all experts at once `grouped` or `of_int8`, if that pays."""

    def plain(a: Array, b: Array) -> Array:
        narrow = a.dtype == jnp.bfloat16
        return of_bfloat16(a, b.astype(a.dtype)).astype(a.dtype) if narrow else of_floats(a, b)

    def product(lowering: Lowering, a: Array, b: Array) -> Array:
        if lowering.exported or lowering.devices > 1:
            return plain(a, b)
        of_one = custom_vmap(plain)

        @of_one.def_vmap
        def of_all(experts, mapped, a, b):
            of_each = jax.vmap(plain, [0 if m else None for m in mapped])
            if all(mapped) and of_int8 and int8.pays(a.reshape(-1, a.shape[-1]), b):
                return of_int8(a, b), True
            if all(mapped) and blas_threads.serves(a.dtype) and _flops(of_each, a, b) >= LARGE:
                return grouped(a, b), True
            return of_each(a, b), True

        return of_one(a, b)

    return product


def _flops(product: Callable, a: Float[Array, "e _ _"], b: Shaped[Array, "e _ _"]) -> int:
    # Of each expert the sizes of both operands and of the result are n·d, d·h and n·h.
    sizes = (math.prod(array.shape[1:]) for array in (a, b, jax.eval_shape(product, a, b)))
    return 2 * len(a) * math.isqrt(math.prod(sizes))


def _grouped_matmul(transposed: bool, x: Float[Array, "e n d"], w: Shaped[Array, "e _ _"]) -> Float[Array, "e n h"]:
    e, n, d = x.shape
    product = folded(partial(cpu_blas.matmul, transposed=transposed))
    return product(x.reshape(e * n, d), w.astype(x.dtype), _of_one_size(e, n)).reshape(e, n, -1)


def _grouped_outer(x: Float[Array, "e n d"], dy: Float[Array, "e n h"]) -> Float[Array, "e d h"]:
    e, n, d = x.shape
    return folded(cpu_blas.outer)(x.reshape(e * n, d), dy.reshape(e * n, -1), _of_one_size(e, n))


def _of_one_size(e: int, n: int) -> Groups:
    return Groups(n * jnp.arange(e, dtype=jnp.int32), jnp.full(e, n, jnp.int32))


def _few_rows(x: Float[Array, "e n d"], w: Int8[Array, "e d h"]) -> Float[Array, "e n h"]:
    return lax.map(lambda e: int8.matmul(x[e], w, e).astype(x.dtype), jnp.arange(len(w)))


_matmul.on("cpu", _on_cpu(_matmul.f, bfloat16.matmul, partial(_grouped_matmul, False), _few_rows))
_matmul_transposed.on("cpu", _on_cpu(_matmul_transposed.f, bfloat16.matmul_transposed, partial(_grouped_matmul, True)))
_outer.on("cpu", _on_cpu(_outer.f, bfloat16.outer, _grouped_outer))
