"""Dropout as a pure function."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

_PARTS = 65536


def dropout(key: Key[Array, ""] | None, x: Float[Array, "*n"], rate: float) -> Float[Array, "*n"]:
    """Zero each number with probability `rate`, scale the others up (Srivastava et al. 2014); no key: return `x`.

    The rate is rounded to a multiple of 1 / 65536 below 1: 16 random bits a number take half the time of 32.
    """
    if key is None or rate == 0:
        return x
    dropped = min(round(rate * _PARTS), _PARTS - 1)
    keep = jax.random.bits(key, x.shape, jnp.uint16) >= jnp.uint16(dropped)
    return jnp.where(keep, x * (_PARTS / (_PARTS - dropped)), 0)
