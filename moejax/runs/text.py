"""Text as a language model reads and writes it: strings or tokens in, whole characters out.

Axis letters: n texts, t tokens.
"""

import codecs
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Integer
from numpy import ndarray

from moejax.data.dataset import Examples
from moejax.data.text_tokens import END, TextTokens
from moejax.errors import UserError, abridged

MOST_TOKENS = 2**13  # of a text that is answered as a whole, each of whose tokens is compared with all before it


def batch_of(tool: TextTokens, x: Any, length: int) -> Examples:
    """One text or several as an array: `tokens` [n, t], filled up behind their ends, and the `length` [n] of each.

    `x`: a string or a list of strings, whole numbers [t] or [n, t]. `length`: of a window of the model's data; t is
    that, or another of few sizes. UserError for anything else, for a text without a token, and for a longer one than
    `MOST_TOKENS`.
    """
    texts = [tokens_of(tool, one) for one in _texts(x)]
    if not texts:
        raise UserError("The batch is empty; give one text at least.")
    lengths = np.array([len(text) for text in texts], np.int32)
    if not lengths.all():
        raise UserError("A text is empty; give texts of one token at least.")
    longest = int(lengths.max())
    if longest > MOST_TOKENS:
        raise UserError(f"A text has {longest:,} tokens, more than {MOST_TOKENS:,} that are read at once; cut it up.")
    power = 1 << (longest - 1).bit_length()
    size = min(power, length) if longest <= length else power
    tokens = np.full((len(texts), size), END, texts[0].dtype)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = text
    return {"tokens": tokens, "length": lengths}


def _texts(x: Any) -> list:
    """Several texts, each a string or tokens; `x` itself if it is one."""
    x = np.asarray(x) if isinstance(x, jax.Array) else x
    several = isinstance(x, _MANY) and not isinstance(x, str) and all(isinstance(one, _MANY) for one in x[:1])
    return list(x) if several else [x]


def cut(found: Any, lengths: Integer[ndarray, " n"]) -> Any:
    """Answers [n, t, …] of texts that were filled up to t: as far as the longest; behind a text's end NaN, or -1."""
    behind = np.arange(lengths.max())[None] >= lengths[:, None]

    def of(array: ndarray) -> ndarray:
        nothing = np.array(np.nan if array.dtype.kind == "f" else -1, array.dtype)
        inside = behind.reshape(*behind.shape, *(1,) * (array.ndim - 2))
        return np.where(inside, nothing, array[:, : behind.shape[1]])

    return jax.tree.map(of, found)


_MANY = (Sequence, ndarray)


def tokens_of(tool: TextTokens, x: Any) -> Integer[ndarray, " t"]:
    """The tokens of a string, or those that are given as whole numbers; UserError for anything else."""
    if isinstance(x, str):
        return _encoded(tool, x)
    array = np.asarray(x) if isinstance(x, (*_MANY, jax.Array)) else np.zeros((), object)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise UserError(f"The text is {abridged(repr(x))}; give a string, or tokens as whole numbers [t].")
    if array.size and not 0 <= array.min() <= array.max() < tool.vocabulary:
        wrong = int(array.min() if array.min() < 0 else array.max())
        raise UserError(f"The text holds the token {wrong}; this model's are 0 to {tool.vocabulary - 1}.")
    return array.astype(np.min_scalar_type(tool.vocabulary - 1))


def _encoded(tool: TextTokens, text: str) -> Integer[ndarray, " t"]:
    if "\0" in text:
        raise UserError(f"The text {abridged(repr(text))} has a NUL in it, as no text has; leave it out.")
    try:
        return tool.encode(text)
    except UnicodeEncodeError:
        raise UserError(f"The text {abridged(ascii(text))} is not Unicode that can be written as UTF-8.") from None


class Written:
    """What a model writes, as it comes: a character is told once it is whole, and what is none is U+FFFD.

    Attributes:
      text: all that was told.
      tokens: how many it was, without `END`.
      ended: whether `END` has come.
    """

    def __init__(self, tool: TextTokens):
        self._tool, self._decoder = tool, codecs.getincrementaldecoder("utf-8")("replace")
        self.text, self.tokens, self.ended = "", 0, False

    def add(self, token: int) -> str:
        """The characters that this token completes; `END` completes all, and what comes after it is nothing."""
        if self.ended or token == END:
            self.ended = True
            return self._told(self._decoder.decode(b"", final=True))
        self.tokens += 1
        return self._told(self._decoder.decode(self._tool.decode([token])))

    def finished(self) -> str:
        """All of the text, now that no token will come; U+FFFD for a character that was not completed."""
        self._told(self._decoder.decode(b"", final=True))
        return self.text

    def _told(self, new: str) -> str:
        self.text += new
        return new
