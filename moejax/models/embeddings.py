"""The vectors of tokens.

Axis letters: y entries of the vocabulary, d numbers of a vector.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def vectors_of(embeddings: Float[Array, "y d"], tokens: Int[Array, "*tokens"]) -> Float[Array, "*tokens d"]:
    """The rows of tokens; NaN for a number that is no token, and so for all that it is mixed with."""
    return embeddings.at[tokens].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
