"""From what a user has to the arrays of a batch: images, pairs of sentences, text, points; or what is wrong with it."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from moejax.config import Config
from moejax.data import mrpc_pieces, tokens
from moejax.data.dataset import Examples, rows
from moejax.data.minilm import read_tokenizer
from moejax.data.text_tokens import TextTokens, text_tokens
from moejax.errors import UserError, abridged
from moejax.models import MODELS
from moejax.models.decoder import sees_later
from moejax.runs import text
from moejax.runs.about import About

_IDS = ("first", "second", "pieces")  # arrays of tokens of a vocabulary
_ENCODED = {"first": ("first", "second"), "pieces": ("pieces", "second")}


def arrays_read(config: Config) -> tuple[str, ...]:
    """The names of the arrays that a configuration's model reads of an example, at evaluation."""
    reads = MODELS[config.model.name].reads
    return (*_ENCODED.get(reads, (reads,)), *(("domain",) if getattr(config.model, "oracle", False) else ()))


class Reader:
    """Makes batches for the model of a run."""

    def __init__(self, config: Config, about: About):
        self.config, self.about = config, about
        self.names = arrays_read(config)
        self._tokenizer: Any = None

    def __call__(self, x: Any) -> Examples:
        """A batch of all that `x` holds: one example or many.

        `x`: uint8 images or floating-point points, one or many; a pair of sentences or several pairs; a text or several
        (`moejax.runs.text.batch_of`); or a mapping of the arrays that the model reads, by name, as the data set has
        them. UserError for anything else.
        """
        if self.names == ("tokens",):
            return self._text(x)
        if isinstance(x, Mapping):
            if missing := [name for name in self.names if name not in x]:
                raise UserError(f"The batch has no {missing[0]!r}; this model reads {', '.join(self.names)}.")
            batch = {name: self._array(name, np.asarray(x[name])) for name in self.names}
            if len({len(array) for array in batch.values()}) > 1:
                sizes = ", ".join(f"{name} {len(array)}" for name, array in batch.items())
                raise UserError(f"The arrays of the batch have other lengths ({sizes}); give as many rows of each.")
        elif self.names[0] in _ENCODED:
            batch = self._encode(_pairs(x))
        elif len(self.names) > 1:
            raise UserError(f"This model reads {' and '.join(self.names)}; give a mapping of these arrays by name.")
        else:
            batch = {self.names[0]: self._array(self.names[0], _as_array(x, self.names[0]))}
        _refuse_none(rows(batch))
        return batch

    def _text(self, x: Any) -> Examples:
        if isinstance(x, Mapping):
            if "tokens" not in x:
                raise UserError("The batch has no 'tokens'; this model reads tokens.")
            x = x["tokens"]
        length = self.about.shapes["tokens"][0]
        batch = text.batch_of(self.text_tokens, x, length)
        if (culprit := sees_later(self.config.moe)) and (batch["length"] != length).any():
            raise UserError(f"{culprit} sees tokens that come later; give texts of {length} tokens, as it has learnt.")
        return batch

    @cached_property
    def text_tokens(self) -> TextTokens:
        """Of a model of text, what makes tokens of it and text of them."""
        return text_tokens(self.about.tokenizer)

    def token_names(self, batch: Examples, n: int) -> list[str]:
        """What the tokens of the n-th pair of sentences of a batch are called: word pieces, or the sentences."""
        if self.names[0] == "pieces" and self._tokenizer is not None:
            return [self._tokenizer.id_to_token(piece) for piece in batch["pieces"][n] if piece != mrpc_pieces.PADDING]
        return ["first sentence", "second sentence"]

    def _array(self, name: str, array: ndarray) -> ndarray:
        dtype, shape = self.about.dtypes[name], list(self.about.shapes[name])
        want = f"{dtype} {shape}, or a batch [n, {', '.join(map(str, shape))}] of it" if shape else f"{dtype} [n]"
        given, one = list(array.shape), bool(shape) and array.ndim == len(shape)
        array = array[None] if one else array
        if array.shape[1:] != tuple(shape) or array.ndim == 0:
            raise UserError(f"`{name}` has the shape {given}; this model reads {want}.")
        kind = np.dtype(dtype).kind
        if (array.dtype != dtype and kind in "ub") or array.dtype.kind not in {"f": "fiu", "i": "iu"}.get(kind, kind):
            raise UserError(f"`{name}` is of the type {array.dtype}; this model reads {want}.")
        if kind == "f" and not np.isfinite(array).all():
            raise UserError(f"`{name}` holds numbers that are not finite; this model reads {want}.")
        most = self._most(name)
        if kind == "i" and array.size and (array.min() < 0 or array.max() > most):
            raise UserError(f"`{name}` holds {array.min()} to {array.max()}; this model reads 0 to {most:,}.")
        return array.astype(dtype)

    def _most(self, name: str) -> int:
        """The highest whole number that the model reads."""
        if name == "domain":  # the expert that an example is given to
            return self.config.moe.num_experts - 1
        return self.config.data.vocabulary - 1 if name in _IDS else np.iinfo(np.int32).max

    def _encode(self, pairs: Examples) -> Examples:
        """Sentences tokenized as the run's data were."""
        if self.about.tokenizer is None:
            raise UserError(
                f"The data of this run were tokens already, not sentences; give the arrays {', '.join(self.names)}."
            )
        encode = _ENCODERS[self.names[0]]
        if self._tokenizer is None:
            self._tokenizer = encode.tokenizer(self.about.tokenizer)
        batch = encode.pairs(self._tokenizer, pairs, self.about.shapes[self.names[0]][0])
        return {name: batch[name] for name in self.names}


class _Encoder(NamedTuple):
    """How sentences become arrays."""

    tokenizer: Callable[[str], Any]  # from the text of a tokenizer.json
    pairs: Callable[[Any, Examples, int], Examples]  # with that tokenizer, pairs of so many tokens


_ENCODERS = {
    "first": _Encoder(tokens.of_text, tokens.encode_pairs),
    "pieces": _Encoder(lambda text: read_tokenizer(text.encode(), "tokenizer.json"), mrpc_pieces.pieces),
}


def _refuse_none(examples: int) -> None:
    if not examples:
        raise UserError("The batch is empty; give one example at least.")


def _as_array(x: Any, name: str) -> ndarray:
    try:
        array = np.asarray(x)
    except ValueError:
        raise UserError(f"`{name}` is made of arrays of several shapes; give one array.") from None
    if array.dtype.kind not in "biuf":
        raise UserError(f"`{name}` is {abridged(repr(x))}; this model reads arrays of numbers.")
    return array


def _pairs(x: Any) -> Examples:
    """Pairs of sentences as columns; two strings are one pair."""
    if isinstance(x, ndarray):
        x = x.tolist()
    if not isinstance(x, Sequence) or isinstance(x, str):
        raise UserError(f"The input is {abridged(repr(x))}; this model reads pairs of sentences, such as ('a', 'b').")
    if len(x) == 2 and all(isinstance(sentence, str) for sentence in x):
        x = [x]
    for number, pair in enumerate(x):
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise UserError(f"Pair {number} is {abridged(repr(pair))}; a pair is two sentences, such as ('a', 'b').")
        if wrong := [sentence for sentence in pair if not isinstance(sentence, str)]:
            raise UserError(f"Pair {number} holds {abridged(repr(wrong[0]))}; a sentence is a string.")
        if not all(sentence.strip() for sentence in pair):
            raise UserError(f"Pair {number} holds an empty sentence; give two sentences with a word each.")
    _refuse_none(len(x))
    first, second = zip(*x, strict=True)
    return {
        "first": np.array(first, object),
        "second": np.array(second, object),
        "label": np.zeros(len(first), np.int32),
    }
