"""Matrix products of narrow numbers, added up in float32; of float64 in float64.

A processor with units for bfloat16 (AMX on Intel's, tensor cores on NVIDIA's) adds its products up in float32 anyway.
XLA's CPU back end uses those units where the operands are bfloat16, the result is float32 and no axis has to be turned
round; everything else it computes in float32, six times slower. A derivative made by JAX multiplies a float32
derivative by a bfloat16 operand, so these say their own.
"""

from functools import cache
from pathlib import Path

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Shaped

from moejax.kernels.multilinear import multilinear
from moejax.widening import wide


@cache
def has_units() -> bool:
    """Whether this processor has units for bfloat16, as far as Linux says so."""
    try:
        return lists_units(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return False


def lists_units(cpuinfo: str) -> bool:
    """Whether the first processor of a list as Linux makes it has them."""
    flags = next((line for line in cpuinfo.splitlines() if line.lower().startswith(("flags", "features"))), "")
    return not {"amx_bf16", "avx512_bf16", "bf16"}.isdisjoint(flags.split())


def matmul(x: Float[Array, "*n d"], w: Float[Array, "d h"]) -> Float[Array, "*n h"]:
    """x · w in float32 at least, from operands of any one type; to that its derivative is rounded before use."""
    return _matmul(x, w)


@multilinear(
    lambda ct, x, w: matmul_transposed(ct.astype(w.dtype), w).astype(w.dtype),
    lambda ct, x, w: outer(x, ct.astype(x.dtype)).astype(x.dtype),
)
def _matmul(x, w):
    return lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ())), preferred_element_type=wide(x.dtype))


def matmul_transposed(x: Float[Array, "*n h"], w: Float[Array, "d h"]) -> Float[Array, "*n d"]:
    """x · wᵀ in float32 at least."""
    return lax.dot_general(x, w, (((x.ndim - 1,), (1,)), ((), ())), preferred_element_type=wide(x.dtype))


def outer(x: Float[Array, "*n d"], y: Float[Array, "*n h"]) -> Float[Array, "d h"]:
    """Σ over all n of x[n]ᵀ y[n], in float32 at least."""
    # With an axis of one beside it, XLA lays x out anew with n last, which its bfloat16 product needs.
    one = (1,) if x.dtype == jnp.bfloat16 else ()
    x, y = (a.reshape(-1, *one, a.shape[-1]) for a in (x, y))
    over = tuple(range(x.ndim - 1))
    return lax.dot_general(x, y, ((over, over), ((), ())), preferred_element_type=wide(x.dtype))


def as_bits(a: Shaped[Array, "*n"]) -> Shaped[Array, "*n"]:
    """bfloat16 as integers, other types as they are.

    For what a loop carries or stacks: as bfloat16, XLA's CPU back end would carry it as float32 and convert it, one
    number at a time, at every turn.
    """
    return lax.bitcast_convert_type(a, jnp.uint16) if a.dtype == jnp.bfloat16 else a


def from_bits(bits: Shaped[Array, "*n"], dtype: DTypeLike) -> Shaped[Array, "*n"]:
    """Undo `as_bits`, of numbers of that type."""
    return lax.bitcast_convert_type(bits, dtype) if dtype == jnp.bfloat16 else bits
