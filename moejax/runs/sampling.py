"""From a language model's logits to the next token, in three pure steps: temperature, nucleus, a draw.

Axis letters: b texts, y vocabulary.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

Scalar = Float[Array, ""] | float

_COLDEST = 1e-30  # so that a difference of logits divided by it is no NaN


def tempered(logits: Float[Array, "*b y"], temperature: Scalar) -> Float[Array, "*b y"]:
    """Probabilities, softmax(logits / temperature); at 0 all of it is the largest logit's, the first of equal ones."""
    below = logits - logits.max(-1, keepdims=True)
    warm = jax.nn.softmax(below / jnp.maximum(temperature, _COLDEST))
    return jnp.where(temperature > 0, warm, jax.nn.one_hot(logits.argmax(-1), logits.shape[-1], dtype=warm.dtype))


def nucleus(probabilities: Float[Array, "*b y"], top_p: Scalar) -> Float[Array, "*b y"]:
    """The fewest of the most probable tokens that have `top_p` together, scaled to sum to 1; the others get 0.

    Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1, equations 2 and 3. Of tokens that
    are equally probable the first count as more so; 1 leaves all as they are.
    """
    order = jnp.argsort(-probabilities, axis=-1, stable=True)
    falling = jnp.take_along_axis(probabilities, order, axis=-1)
    sums = jnp.cumsum(falling, axis=-1)
    before = jnp.concatenate([jnp.zeros_like(sums[..., :1]), sums[..., :-1]], axis=-1)
    kept = (before < top_p) | (before == 0) | (top_p >= 1)  # the first one always, were top_p 0 in float32
    chosen = jnp.where(jnp.take_along_axis(kept, jnp.argsort(order, axis=-1), axis=-1), probabilities, 0)
    return chosen / chosen.sum(-1, keepdims=True)


def draw(keys: Key[Array, " b"], probabilities: Float[Array, "b y"]) -> Int[Array, " b"]:
    """A token for each text, by a key of its own."""
    return jax.vmap(jax.random.categorical)(keys, jnp.log(probabilities))


def keys_of(seed: Key[Array, ""], position: Int[Array, ""], texts: int) -> Key[Array, " b"]:
    """The key of each text's token at a position: a pure function of these, however many texts there are."""
    of_position = jax.random.fold_in(seed, position)
    return jax.vmap(lambda text: jax.random.fold_in(of_position, text))(jnp.arange(texts))
