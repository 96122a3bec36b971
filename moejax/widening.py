"""Narrow numbers as float32: bfloat16 knows no 257, and a sum in float16 ends at 65,504."""

import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Num


def wide(dtype: DTypeLike) -> jnp.dtype:
    """In what numbers of that type are counted, compared and added up: float32, or float64 where they are."""
    return jnp.promote_types(dtype, jnp.float32)


def widened(x: Num[Array, "*n"]) -> Float[Array, "*n"]:
    """x in such numbers."""
    return x.astype(wide(x.dtype))
