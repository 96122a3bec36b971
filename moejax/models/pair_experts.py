"""Experts that read a whole sentence: a convolution and a recurrent network over its words.

A sentence is one token, a flat vector [d + s·(d + 1)]: a summary of d numbers, which is also the router input, then for
each of s words d numbers and a 1 for a word or a 0 for padding. An expert's output has d numbers. So any MoE layer can
route sentences; a soft layer's slots mix the two sentences of a pair.

Axis letters: s words of a sentence, d numbers of a word and of a summary, h hidden width.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from moejax.experts import GLU, MLP


class OnSummary(nnx.Module):
    """A feed-forward expert: it reads the summary alone."""

    def __init__(self, inner: MLP | GLU, d: int):
        self.inner, self.d = inner, d

    def __call__(self, token: Float[Array, "*batch n"]) -> Float[Array, "*batch d"]:
        return self.inner(token[..., : self.d])


class Convolution(nnx.Module):
    """A convolution over the words, GELU, mean and maximum, one linear map (Kim 2014)."""

    def __init__(self, s: int, d: int, h: int, *, kernel: int, dtype: DTypeLike | None = None, rngs: nnx.Rngs):
        self.s, self.d, self.kernel = s, d, kernel
        self.filters = nnx.Linear(kernel * d, h, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(2 * h, d, dtype=dtype, rngs=rngs)

    def __call__(self, token: Float[Array, "*batch n"]) -> Float[Array, "*batch d"]:
        words, present = unflatten(token, self.s, self.d)
        return self.out(pool(jax.nn.gelu(self.filters(windows(words, self.kernel))), present))


class Recurrence(nnx.Module):
    """A gated recurrent unit over the words, mean and maximum of its states, one linear map.

    Cho et al. 2014, with the reset gate after the product as in cuDNN and PyTorch.
    """

    def __init__(self, s: int, d: int, h: int, *, dtype: DTypeLike | None = None, rngs: nnx.Rngs):
        self.s, self.d, self.h = s, d, h
        self.into = nnx.Linear(d, 3 * h, dtype=dtype, rngs=rngs)
        self.again = nnx.Linear(h, 3 * h, use_bias=False, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(2 * h, d, dtype=dtype, rngs=rngs)

    def __call__(self, token: Float[Array, "*batch n"]) -> Float[Array, "*batch d"]:
        words, present = unflatten(token, self.s, self.d)
        return self.out(pool(self.states(words, present), present))

    def states(
        self, words: Float[Array, "*batch s d"], present: Float[Array, "*batch s"]
    ) -> Float[Array, "*batch s h"]:
        """The state after each word, starting from zeros; padding leaves it as it is."""
        inputs = jnp.moveaxis(self.into(words), -2, 0)  # of all steps in one product

        def step(state, step_input):
            x, there = step_input
            into, again = jnp.split(x, 3, axis=-1), jnp.split(self.again(state), 3, axis=-1)
            reset, keep = (jax.nn.sigmoid(a + b) for a, b in zip(into[:2], again[:2], strict=True))
            new = keep * state + (1 - keep) * jnp.tanh(into[2] + reset * again[2])
            state = jnp.where(there[..., None] > 0, new, state)
            return state, state

        first = jnp.zeros((*words.shape[:-2], self.h), inputs.dtype)
        _, states = jax.lax.scan(step, first, (inputs, jnp.moveaxis(present, -1, 0)))
        return jnp.moveaxis(states, 0, -2)


def flatten(
    summary: Float[Array, "*batch d"], words: Float[Array, "*batch s d"], present: Float[Array, "*batch s"]
) -> Float[Array, "*batch n"]:
    """A sentence as one token, with zeros at padding."""
    words = jnp.concatenate([words, jnp.ones_like(present)[..., None]], axis=-1) * present[..., None]
    return jnp.concatenate([summary, words.reshape(*words.shape[:-2], -1)], axis=-1)


def unflatten(
    token: Float[Array, "*batch n"], s: int, d: int
) -> tuple[Float[Array, "*batch s d"], Float[Array, "*batch s"]]:
    """The words of a sentence, and their presence: above 0 for a word, 0 for padding."""
    words = token[..., d:].reshape(*token.shape[:-1], s, d + 1)
    return words[..., :-1], words[..., -1]


def pool(x: Float[Array, "*batch s h"], present: Float[Array, "*batch s"]) -> Float[Array, "*batch h2"]:
    """Mean and maximum over the words present; zeros for a sentence without words."""
    there = present[..., None] > 0
    mean = jnp.where(there, x, 0).sum(-2) / jnp.maximum(there.sum(-2), 1)
    largest = jnp.where(there.any(-2), jnp.where(there, x, -jnp.inf).max(-2), 0)
    return jnp.concatenate([mean, largest], axis=-1)


def windows(x: Float[Array, "*batch s d"], size: int) -> Float[Array, "*batch s k"]:
    """Each word between its neighbours, `size` words in all (an even `size`: one more after); zeros at the ends."""
    before = (size - 1) // 2
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(before, size - 1 - before), (0, 0)])
    return jnp.concatenate([padded[..., i : i + x.shape[-2], :] for i in range(size)], axis=-1)
