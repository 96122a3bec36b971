"""Text as numbers and back: its UTF-8 bytes, or byte pairs that are trained on the spot.

Nothing is unknown to either: a byte pair is made of bytes. `END`, token 0, stands between texts. Their attributes are

    vocabulary    number of tokens
    lengths       bytes that each token stands for; `END` counts as one
    tokenizer     the text of the tokenizer.json that makes them; None for bytes
"""

from typing import Any

import numpy as np
from jaxtyping import UInt
from numpy import ndarray

from moejax.data import tokens
from moejax.data.library_errors import importing
from moejax.pieces import letters_of_bytes, pieces

END = 0  # between texts
_END = "<|endoftext|>"


class Bytes:
    """Each byte of UTF-8 is a token."""

    vocabulary, tokenizer = 256, None
    lengths = np.ones(256, np.int32)

    def encode(self, text: str) -> UInt[ndarray, " n"]:
        """The tokens of a text, which holds no NUL."""
        return np.frombuffer(text.encode("utf-8"), np.uint8)

    def decode(self, ids: Any) -> bytes:
        """The bytes of tokens; a character may be cut in two, and `END` is a NUL."""
        return np.asarray(ids, np.uint8).tobytes()


class BytePairs:
    """Byte pairs (Sennrich et al. 2016) of bytes instead of letters (Radford et al. 2019, section 2.2)."""

    def __init__(self, tokenizer: str):
        with importing("tokenizers"):
            from tokenizers import Tokenizer

        self.tokenizer, self._tool = tokenizer, Tokenizer.from_str(tokenizer)
        self._tool.encode_special_tokens = True  # a text may hold the letters that END is written with
        self.vocabulary = self._tool.get_vocab_size()
        self._bytes = pieces(tokenizer)
        self.lengths = np.array([len(piece) for piece in self._bytes], np.int32)

    @classmethod
    def trained(cls, name: str, texts: list[str], vocabulary: int) -> "BytePairs":
        """So many tokens, the most frequent pairs of the texts of a data set; kept in the cache under its `name`."""
        return cls(tokens.kept_or_trained(name, texts, f"byte pairs {vocabulary}", lambda: _train(texts, vocabulary)))

    def encode(self, text: str) -> UInt[ndarray, " n"]:
        ids = self._tool.encode(text, add_special_tokens=False).ids
        return np.array(ids, np.min_scalar_type(self.vocabulary - 1))

    def decode(self, ids: Any) -> bytes:
        return b"".join(self._bytes[token] for token in np.asarray(ids).tolist())


TextTokens = Bytes | BytePairs


def text_tokens(tokenizer: str | None) -> TextTokens:
    """Those that the text of a tokenizer.json describes; None: bytes."""
    return Bytes() if tokenizer is None else BytePairs(tokenizer)


def _train(texts: list[str], vocabulary: int) -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tool = Tokenizer(models.BPE())
    tool.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_END],
        initial_alphabet=sorted(letters_of_bytes().values()),
        show_progress=False,
    )
    tool.train_from_iterator(texts, trainer)
    return tool.to_str()
