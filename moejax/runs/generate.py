"""Text that a language model writes: the prompt is read once, then each call of one program writes a token.

    for tokens in moejax.runs.load(run).writer.write("def ", tokens=200, samples=2):    [b], one of each sample

Keys and values of what was read lie in a cache, so that a token costs one token's products. A sample is the same
however many others are written with it, for no tokens compete (`moejax.runs.opening.alone`).

Axis letters: b samples, t tokens of a part of the prompt, y vocabulary.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Integer, Key
from numpy import ndarray

from moejax.config import Config
from moejax.data.text_tokens import END, text_tokens
from moejax.errors import UserError, abridged
from moejax.models import MODELS
from moejax.models.decoder import Cache, sees_later
from moejax.runs.about import About
from moejax.runs.sampling import draw, keys_of, nucleus, tempered
from moejax.runs.text import Written, tokens_of

MOST_SAMPLES, MOST_WRITTEN = 1024, 10**6  # texts at once; tokens of each
_PART = 1024  # tokens of a prompt that are read at once


class Writer:
    """Writes with a network; `read` is compiled for each size of a prompt's parts, `step` for a number of samples.

    Attributes:
      tool: what makes tokens of text, and text of tokens.
    """

    def __init__(self, config: Config, about: About, module: nnx.Module):
        """UserError, in one sentence, for a network that writes no text."""
        reads = MODELS[config.model.name].reads
        if reads != "tokens":
            raise UserError(f"The model of this run reads {reads}, and writes no text; name a run such as text_sparse.")
        if culprit := sees_later(config.moe):
            raise UserError(
                f"{culprit} sees tokens that come later, so that this model cannot write; name another run."
            )
        self.tool, self._empty = text_tokens(about.tokenizer), module.cache(1)
        # A module as an argument is taken apart in Python at each call, which takes longer than a small network does.
        self._arrays, structure = jax.tree.flatten(module)

        def read(arrays: list[Array], tokens: Integer[Array, "b t"], cache: Cache) -> tuple[Float[Array, "b y"], Cache]:
            logits, _, cache = jax.tree.unflatten(structure, arrays).go_on(tokens, cache)
            return logits[:, -1], cache

        def step(
            arrays: list[Array],
            logits: Float[Array, "b y"],
            cache: Cache,
            seed: Key[Array, ""],
            how: tuple[Array, Array],
        ) -> tuple[Int[Array, " b"], Float[Array, "b y"], Cache]:
            keys = keys_of(seed, cache.length, len(logits))
            tokens = draw(keys, nucleus(tempered(logits, how[0]), how[1]))
            return tokens, *read(arrays, tokens[:, None], cache)

        self.read, self.step = jax.jit(read), jax.jit(step)

    def write(
        self,
        prompt: Any,
        *,
        tokens: int = 200,
        temperature: float = 0.8,
        top_p: float = 0.95,
        seed: int = 0,
        samples: int = 1,
    ) -> Iterator[Int[ndarray, " b"]]:
        """The next token of each sample, until all are over; behind the end of one there is `END`.

        Args:
          prompt: a string, or tokens; an empty one is the beginning of a text.
          tokens: how many to write at most.
          temperature: of the softmax; 0 takes the most probable token.
          top_p: share of the probability of the tokens that may be chosen.
          seed: of the draws.
          samples: texts that are written at once.

        Raises UserError, in one sentence, for values that make no sense.
        """
        _check(tokens, temperature, top_p, seed, samples)
        given = tokens_of(self.tool, prompt)
        how = jnp.float32(temperature), jnp.float32(top_p)
        return self._go_on(given, tokens, samples, jax.random.key(seed), how)

    def texts(self, prompt: Any, *, samples: int = 1, **options: Any) -> list[str]:
        """What each sample goes on with, without the prompt; arguments and errors as of `write`."""
        steps = self.write(prompt, samples=samples, **options)
        written = [Written(self.tool) for _ in range(samples)]
        for tokens in steps:
            for one, token in zip(written, tokens.tolist(), strict=True):
                one.add(token)
        return [one.finished() for one in written]

    def _go_on(
        self, given: ndarray, tokens: int, samples: int, seed: Key[Array, ""], how: tuple[Array, Array]
    ) -> Iterator[Int[ndarray, " b"]]:
        over = np.zeros(samples, bool)
        for found in itertools.islice(self.endless(given, samples, seed, how), tokens):
            new = np.where(over, END, found)
            over |= new == END
            yield new
            if over.all():
                return

    def endless(
        self, given: Integer[ndarray, " n"], samples: int, seed: Key[Array, ""], how: tuple[Array, Array]
    ) -> Iterator[Int[ndarray, " b"]]:
        """Tokens behind those that are given, whether a text has ended or not; `how`: temperature and top_p."""
        logits, cache = self._prompted(given, samples)
        while True:
            found, logits, cache = self.step(self._arrays, logits, cache, seed, how)
            yield np.asarray(found)

    def _prompted(self, given: Integer[ndarray, " n"], samples: int) -> tuple[Float[Array, "b y"], Cache]:
        """The logits after a prompt, and its cache, for each sample.

        It is filled up in front to a power of two, so that few programs are compiled: at negative positions, which no
        token sees.
        """
        given = given if given.size else np.array([END], given.dtype)
        size = min(1 << (given.size - 1).bit_length(), _PART)
        front = -given.size % size
        filled = np.concatenate([np.full(front, END, given.dtype), given])
        cache = self._empty._replace(length=jnp.int32(-front))
        for part in filled.reshape(-1, 1, size):
            logits, cache = self.read(self._arrays, part, cache)
        if not np.isfinite(logits).all():
            raise UserError("The model's logits are not finite, so that it cannot write; name another --checkpoint.")

        logits, keys, values = jax.tree.map(
            lambda a: jnp.repeat(a, samples, axis=0), (logits, cache.keys, cache.values)
        )
        return logits, Cache(keys, values, cache.length)


def _check(tokens: int, temperature: float, top_p: float, seed: int, samples: int) -> None:
    for name, value in (("tokens", tokens), ("seed", seed), ("samples", samples)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise UserError(f"{name} is {value!r}; give a whole number.")
    for name, share in (("temperature", temperature), ("top_p", top_p)):
        if not isinstance(share, int | float | np.number) or isinstance(share, bool):
            raise UserError(f"{name} is {share!r}; give a number.")
    if not 1 <= tokens <= MOST_WRITTEN:
        raise UserError(f"tokens is {abridged(str(tokens))}; write 1 to {MOST_WRITTEN:,}.")
    if not 0 <= temperature < math.inf:
        raise UserError(f"temperature is {temperature}; give 0, which takes the most probable token, or more.")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p is {top_p}; give a share above 0, or 1 for all tokens.")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed}; give 0 to {2**32 - 1}.")
    if not 1 <= samples <= MOST_SAMPLES:
        raise UserError(f"samples is {samples}; write 1 to {MOST_SAMPLES:,} at once.")
