"""Sentences as rows of token ids, by a tokenizer trained on the spot or one the user names.

The tokenizer trained here is byte pairs, lower-cased, of the training sentences alone, so that nothing of the other
splits is known to it; it is kept in the cache. Both kinds are run by `transformers`, and no hub is asked.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from moejax.data import find
from moejax.data.dataset import Examples
from moejax.errors import UserError

PAD = 0
_PAD, _UNKNOWN = "[PAD]", "[UNK]"


def trained(name: str, sentences: Sequence[str], vocabulary: int):
    """A tokenizer of at most so many pieces of words, by byte-pair encoding (Sennrich et al. 2016), in lower case.

    The same sentences give the same ids. `name` is the data set's, for the cache.
    """
    digest = hashlib.sha256("\n".join([str(vocabulary), *sentences]).encode()).hexdigest()
    file = f"tokenizer-{digest[:16]}.json"
    path = find.cache_folder(name) / file
    try:
        return _wrapped(path.read_text())
    except Exception:  # not there yet, or damaged: the library raises plain Exception for that
        pass
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer()  # lower case, no accents
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace()])
    # Not word pieces: their trainer breaks ties at random.
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[_PAD, _UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator(sentences, trainer)
    text = tokenizer.to_str()
    find.keep(name, file, text.encode())
    return _wrapped(text)


def of_folder(folder: str, vocabulary: int):
    """The tokenizer of a folder with tokenizer.json.

    Raises:
      UserError: there is none, it cannot be read, or it has more than `vocabulary` tokens.
    """
    path = Path(folder).expanduser() / "tokenizer.json"
    try:
        tokenizer = _wrapped(path.read_text())
    except OSError:
        raise UserError(f"--data.tokenizer={folder} has no readable tokenizer.json: name a folder with one.") from None
    except Exception as error:  # what the library raises for a file that is no tokenizer
        raise UserError(
            f"{path} is no tokenizer ({str(error).splitlines()[0]}): save one there with save_pretrained."
        ) from None
    if len(tokenizer) > vocabulary:
        raise UserError(
            f"--data.vocabulary={vocabulary} is too small for the {len(tokenizer)} tokens of {path}: give that many."
        )
    return tokenizer


def encode(tokenizer, sentences: Iterable[str], length: int) -> np.ndarray:
    """Token ids, int32 [n, length]: sentences cut after, or filled up with 0 to, so many.

    Raises:
      UserError: the tokenizer has another token than padding at 0.
    """
    if tokenizer.convert_ids_to_tokens(PAD).strip("[]<>").lower() != "pad":
        raise UserError(
            f"The tokenizer has {tokenizer.convert_ids_to_tokens(PAD)!r} as token 0, expected padding such as {_PAD}: "
            f"leave --data.tokenizer out to train one."
        )
    ids = tokenizer(list(sentences), add_special_tokens=False, truncation=True, max_length=length)["input_ids"]
    rows = np.full((len(ids), length), PAD, np.int32)
    for row, of_sentence in zip(rows, ids, strict=True):
        row[: len(of_sentence)] = of_sentence
    return rows


def encode_pairs(tokenizer, text: Examples, length: int) -> Examples:
    """Pairs of sentences as {"first", "second": int32 [n, length], "label": int32 [n]}."""
    return {side: encode(tokenizer, text[side], length) for side in ("first", "second")} | {"label": text["label"]}


def _wrapped(text: str):
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is no PyTorch: tokenizers need none
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text), pad_token=_PAD, unk_token=_UNKNOWN)
