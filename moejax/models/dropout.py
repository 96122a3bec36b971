"""Dropout as a pure function."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def dropout(key: Key[Array, ""] | None, x: Float[Array, "*n"], rate: float) -> Float[Array, "*n"]:
    """Zero each number with that chance and scale the others up (Srivastava et al. 2014); without a key, nothing.

    The rate is rounded to a multiple of 1 / 65536: half the random bits of a float cost half the time.
    """
    if key is None or rate == 0:
        return x
    keep = jax.random.bits(key, x.shape, jnp.uint16) >= jnp.uint16(round(rate * 65536))
    return jnp.where(keep, x / (1 - rate), 0)
