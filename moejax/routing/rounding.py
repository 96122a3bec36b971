"""Numbers that are counted and compared, though they are rounded."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.widening import wide

ULPS = 8  # sums and quotients of counts were seen to miss each other by 3


def sign_beyond_rounding(value: Float[Array, "*n"], of: Float[Array, "*#n"] | int | float) -> Float[Array, "*n"]:
    """1 where `value` is above `of`, -1 where below, 0 where they are a few roundings of float32 apart."""
    value = jnp.asarray(value, wide(jnp.result_type(value)))
    difference = value - of
    return jnp.where(jnp.abs(difference) <= ULPS * jnp.finfo(value.dtype).eps * jnp.abs(of), 0, jnp.sign(difference))
