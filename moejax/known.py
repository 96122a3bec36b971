"""What is known of an array's values while the program that has it is made."""

import jax
from jaxtyping import Array, Bool


def known_to_hold(condition: Bool[Array, "..."]) -> bool:
    """Whether it holds anywhere; False where its values are not known, as under `jax.jit`."""
    return not isinstance(condition, jax.core.Tracer) and bool(condition.any())
