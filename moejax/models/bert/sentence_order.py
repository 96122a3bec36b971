"""The order of the two sentences of a pair."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def swap_sentences(
    pieces: Int[Array, "b t"], second: Bool[Array, "b t"]
) -> tuple[Int[Array, "b t"], Bool[Array, "b t"]]:
    """Pairs `[CLS] a [SEP] b [SEP]` as `[CLS] b [SEP] a [SEP]`, as are their `second`, which mark the second sentence.

    Padding, pieces of 0, stays at the end.
    """
    t = pieces.shape[1]
    place = jnp.arange(t)[None]
    of_second = second.sum(1, keepdims=True)
    of_first = (pieces != 0).sum(1, keepdims=True) - of_second - 1  # with its [SEP], without [CLS]
    end = 1 + of_first + of_second
    source = jnp.where(place <= of_second, place + of_first, place - of_second)
    source = jnp.where((place == 0) | (place >= end), place, source)
    return jnp.take_along_axis(pieces, source, axis=1), (place > of_second) & (place < end)
