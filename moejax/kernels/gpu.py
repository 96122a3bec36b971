"""Which kernels compute grouped matrix products on this GPU: the first that fit and were right when tried on it.

    mosaic   Hopper, numbers of 16 bits, widths of whole tiles
    ragged   XLA's own, slower by far; with a warning that says why. Also in exported programs, for any GPU

Each is a module gpu_NAME with `matmul` and `outer`; kernels say by `fits` what they can multiply.
"""

import functools
import importlib
import warnings
from types import ModuleType

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, DTypeLike, Float, Int

from moejax.kernels import ragged
from moejax.kernels.multilinear import Lowering

KERNELS = ("mosaic",)  # imported where there is a GPU alone: Pallas takes long
_TOLERANCE = 0.02  # of bfloat16, as a share of the answer's length


def matmul(
    lowering: Lowering,
    x: Float[Array, "r d"],
    w: Float[Array, "e d_or_h h_or_d"],
    sizes: Int[Array, " e"],
    *,
    transposed: bool = False,
) -> Float[Array, "r h"]:
    """`grouped_matmul`, without a derivative."""
    h = w.shape[1] if transposed else w.shape[2]
    kernels = ragged if lowering.exported else chosen(x.shape[1], h, x.dtype)
    return sequential_vmap(lambda x, w, sizes: kernels.matmul(x, w, sizes, transposed))(x, w, sizes)


def outer(
    lowering: Lowering, x: Float[Array, "r d"], dy: Float[Array, "r h"], sizes: Int[Array, " e"]
) -> Float[Array, "e d h"]:
    """`grouped_outer`, without a derivative."""
    kernels = ragged if lowering.exported else chosen(x.shape[1], dy.shape[1], x.dtype)
    return sequential_vmap(kernels.outer)(x, dy, sizes)


def chosen(d: int, h: int, dtype: DTypeLike) -> ModuleType:
    """The kernels for rows of d and matrices of d × h."""
    return next((kernels for kernels in working().values() if kernels.fits(d, h, dtype)), ragged)


@functools.cache
def working() -> dict[str, ModuleType]:
    """Those that were right when tried on this GPU; none where there is no GPU. Tried once in a process."""
    if jax.default_backend() != "gpu":
        return {}
    found, failures = {}, []
    for name in KERNELS:
        try:
            kernels = importlib.import_module(f"moejax.kernels.gpu_{name}")
            error = greatest_error(kernels)
        except Exception as failure:  # of a compiler that knows this GPU or this version of JAX not well enough
            failures.append(f"{name} failed ({type(failure).__name__}: {failure}".splitlines()[0][:200] + ")")
            continue
        if error <= _TOLERANCE:
            found[name] = kernels
        else:
            failures.append(f"{name} was off by {error:.0%}")
    if not found:
        warnings.warn(
            f"Grouped matrix products fall back to lax.ragged_dot, which is slow on GPUs: {'; '.join(failures)}.",
            stacklevel=2,
        )
    return found


def greatest_error(kernels: ModuleType) -> float:
    """‖answer - ragged_dot's‖ / ‖ragged_dot's‖, the greatest of the three products, with empty and uneven runs."""
    rows, d, h, experts = 700, 256, 384, 5
    shapes = (rows, d), (experts, d, h), (experts, h, d), (rows, h)

    def products(kernels: ModuleType) -> list[Array]:
        keys = jax.random.split(jax.random.key(0), len(shapes))
        x, w, wt, dy = (jax.random.normal(key, shape, jnp.bfloat16) for key, shape in zip(keys, shapes, strict=True))
        sizes = jnp.array([130, 0, 301, 0, 200], jnp.int32)  # and 69 rows left over
        three = kernels.matmul(x, w, sizes), kernels.matmul(x, wt, sizes, True), kernels.outer(x, dy, sizes)
        return [product.astype(jnp.float32) for product in three]

    with jax.ensure_compile_time_eval():  # also in the middle of tracing
        answers, right = (jax.jit(lambda k=k: products(k))() for k in (kernels, ragged))
        errors = [jnp.linalg.norm(a - b) / jnp.linalg.norm(b) for a, b in zip(answers, right, strict=True)]
        worst = float(jnp.stack(errors).max())
    return worst if worst == worst else float("inf")
