"""Which kernels compute grouped matrix products on this GPU: the first that fit and were right when tried on it.

mosaic    JAX's own for Hopper: numbers of 16 bits, widths of whole tiles
tokamax   where it is installed
ragged    XLA's own, slower by far; with a warning that says why. Also in exported programs, for any GPU
"""

import functools
import importlib
import itertools
import warnings
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike

from moejax.kernels import ragged
from moejax.kernels.groups import Groups

KERNELS = ("mosaic", "tokamax")  # modules gpu_NAME, imported where there is a GPU alone: Pallas takes long

# What they are tried on: rows, of which some belong to no group, and groups; then widths, on tiles and off them. A row
# of NaN is a group of its own within a tile: it must not spoil its neighbours.
_ROWS = (700, (40, 0, 3, 215, 0, 1, 372)), (90, (0, 17, 1, 0, 33, 0, 20))
TOLERANCES = {2: 0.02, 4: 0.005, 8: 1e-9}  # by bytes of a number: a GPU's float32 products may be TF32's
_WIDTHS = (256, 384), (200, 72)


def chosen(dtype: DTypeLike, *widths: int) -> ModuleType:
    """The kernels for rows and matrices of these widths."""
    return next((kernels for kernels in working(dtype).values() if kernels.fits(dtype, *widths)), ragged)


def working(dtype: DTypeLike) -> dict[str, ModuleType]:
    """Those that were right when tried on this GPU with such numbers, once in a process; none where there is no GPU."""
    return _tried(jnp.dtype(dtype).name) if jax.default_backend() == "gpu" else {}


@functools.cache
def _tried(dtype: str) -> dict[str, ModuleType]:
    found, failures = {}, []
    for name in KERNELS:
        try:
            kernels = importlib.import_module(f"moejax.kernels.gpu_{name}")
            error = greatest_error(kernels, dtype)
        except Exception as failure:  # of a compiler that knows this GPU or this version of JAX not well enough
            failures.append(f"{name} failed ({type(failure).__name__}: {failure}".splitlines()[0][:200] + ")")
            continue
        if error <= TOLERANCES[jnp.dtype(dtype).itemsize]:
            found[name] = kernels
        else:
            failures.append(f"{name} was off by {error:.1%}")
    if not found:
        warnings.warn(
            f"Grouped matrix products of {dtype} fall back to lax.ragged_dot, which is slow on GPUs:"
            f" {'; '.join(failures)}.",
            stacklevel=2,
        )
    return found


def greatest_error(kernels: ModuleType, dtype: DTypeLike) -> float:
    """‖output - right‖ / ‖right‖, the greatest of all products that the kernels say they fit; 0 if they fit none."""
    errors = [0.0]
    for (rows, sizes), (d, h) in itertools.product(_ROWS, _WIDTHS):
        if kernels.fits(dtype, d, h):
            errors += _errors(kernels, jnp.dtype(dtype), rows, sizes, d, h)
    return max(error if error == error else float("inf") for error in errors)


def _errors(kernels: ModuleType, dtype: np.dtype, rows: int, sizes: tuple[int, ...], d: int, h: int) -> list[float]:
    draw = np.random.default_rng(0).standard_normal
    x, w, dy = (draw(shape).astype(dtype) for shape in ((rows, d), (len(sizes), d, h), (rows, h)))
    x[sum(sizes[: sizes.index(1)])] = np.nan

    @jax.jit
    def products(x, w, dy, sizes):
        groups = Groups.of(sizes)
        return (
            kernels.matmul(x, w, groups, False),
            kernels.matmul(dy, w, groups, True),
            kernels.outer(x, dy, groups),
        )

    # Also in the middle of tracing, and where somebody made a CPU the default device.
    with jax.ensure_compile_time_eval(), jax.default_device(jax.local_devices()[0]):
        outputs = [np.asarray(y, np.float64) for y in products(x, w, dy, np.array(sizes, np.int32))]
    right = [np.zeros(y.shape) for y in outputs]
    x, w, dy = (a.astype(np.float64) for a in (x, w, dy))
    for e, (start, size) in enumerate(zip(np.cumsum(sizes) - sizes, sizes, strict=True)):
        own = slice(start, start + size)
        right[0][own], right[1][own], right[2][e] = x[own] @ w[e], dy[own] @ w[e].T, x[own].T @ dy[own]
    known = map(np.isfinite, right)
    pairs = zip(outputs, right, known, strict=True)
    return [float(np.linalg.norm(a[finite] - b[finite]) / np.linalg.norm(b[finite])) for a, b, finite in pairs]
