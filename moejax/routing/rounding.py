"""Numbers that are equal but for rounding."""

import jax.numpy as jnp
from jaxtyping import Array, Float

ULPS = 8  # sums and quotients of counts were seen to miss each other by 3


def sign_beyond_rounding(value: Float[Array, "*n"], of: Float[Array, "*#n"] | int | float) -> Float[Array, "*n"]:
    """1 where `value` is above `of`, -1 where below, 0 where they are a few roundings of float32 apart."""
    value = jnp.asarray(value, jnp.promote_types(jnp.result_type(value), jnp.float32))
    difference = value - of
    return jnp.where(jnp.abs(difference) <= ULPS * jnp.finfo(value.dtype).eps * jnp.abs(of), 0, jnp.sign(difference))
