"""Dropout as a pure function."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def dropout(key: Key[Array, ""] | None, x: Float[Array, "*n"], rate: float) -> Float[Array, "*n"]:
    """Zero each number with probability `rate`, scale the others up (Srivastava et al. 2014); no key: return `x`.

    The rate is rounded to a multiple of 1 / 65536: 16 random bits a number take half the time of 32.
    """
    if key is None or rate == 0:
        return x
    keep = jax.random.bits(key, x.shape, jnp.uint16) >= jnp.uint16(round(rate * 65536))
    return jnp.where(keep, x / (1 - rate), 0)
