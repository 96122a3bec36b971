"""What is known of an array's values while the program that has it is made."""

import jax
from jaxtyping import Array, ArrayLike, Bool, Shaped


def known(*arrays: Shaped[ArrayLike, "..."]) -> bool:
    """Whether the values of all are known: under `jax.jit` they are not."""
    return not any(isinstance(array, jax.core.Tracer) for array in arrays)


def known_to_hold(condition: Bool[Array, "..."]) -> bool:
    """Whether it holds anywhere; False where its values are not known."""
    return known(condition) and bool(condition.any())
