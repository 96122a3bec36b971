"""Sentences as rows of token ids, by a tokenizer trained on the spot or one the user names.

The tokenizer trained here is byte pairs, lower-cased, of the training sentences alone, so that nothing of the other
splits is known to it; it is kept in the cache. Both kinds are run by `transformers`, and no hub is asked.
"""

import dataclasses
import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from moejax.data import find
from moejax.data.dataset import Dataset, Examples
from moejax.data.library_errors import importing, quiet_panics, said_as
from moejax.errors import UserError

PAD = 0
_PAD, _UNKNOWN = "[PAD]", "[UNK]"
LARGEST = 2**28  # bytes of a tokenizer.json; those of large multilingual models have a tenth of it


def tokenized(text: Dataset, folder: str | None, vocabulary: int, length: int) -> Dataset:
    """Pairs of sentences as pairs of rows of so many ids, by the tokenizer of a folder; None: one trained on the spot.

    Raises:
      UserError: as `trained`, `of_folder` and `encode`.
    """
    if folder is None:
        made = trained(text.name, [*text.train["first"], *text.train["second"]], vocabulary)
    else:
        made = of_folder(folder, vocabulary)
    splits = {name: encode_pairs(made, getattr(text, name), length) for name in ("train", "validation", "test")}
    return dataclasses.replace(text, tokenizer=made.backend_tokenizer.to_str(), **splits)


def trained(name: str, sentences: Sequence[str], vocabulary: int):
    """A tokenizer of at most so many pieces of words, by byte-pair encoding (Sennrich et al. 2016), in lower case.

    The same sentences give the same ids. `name` is the data set's, for the cache.

    Raises:
      UserError: the letters of the sentences alone are more.
    """
    text = kept_or_trained(name, sentences, str(vocabulary), lambda: _train(sentences, vocabulary))
    tokenizer = of_text(text)
    if len(tokenizer) > vocabulary:  # every letter is a token, however few are asked for
        raise UserError(
            f"--data.vocabulary={vocabulary} is too small for the {len(tokenizer)} letters and marks of the sentences: "
            f"give that many at least."
        )
    return tokenizer


def kept_or_trained(name: str, texts: Sequence[str], what: str, train: Callable[[], str]) -> str:
    """The text of the tokenizer that `train` makes of the texts, out of the cache if it is there.

    `name` is the data set's, `what` says which tokenizer it is.
    """
    version = importlib.metadata.version("tokenizers")  # another one may neither train the same nor read this one's
    digest = hashlib.sha256(repr([version, what, *texts]).encode()).hexdigest()
    text = _kept(name, digest)
    if text is None:
        text = train()
        find.keep(name, _file_name(digest, text.encode()), text.encode())
    return text


def _kept(name: str, digest: str) -> str | None:
    """The text of the tokenizer trained on what has this digest, out of the cache, if it is there and undamaged."""
    for path in find.cache_folder(name).glob(_file_name(digest, None)):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if path.name == _file_name(digest, content):
            return content.decode()
    return None


def _file_name(digest: str, content: bytes | None) -> str:
    """Of a tokenizer in the cache: names what it was trained on and what it holds (None: whatever it holds)."""
    return f"tokenizer-{digest[:16]}-{'*' if content is None else hashlib.sha256(content).hexdigest()[:16]}.json"


def _train(sentences: Sequence[str], vocabulary: int) -> str:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer()  # lower case, no accents
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace()])
    # Not word pieces: their trainer breaks ties at random.
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[_PAD, _UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator(sentences, trainer)
    return tokenizer.to_str()


def of_folder(folder: str, vocabulary: int):
    """The tokenizer of a folder with tokenizer.json.

    Raises:
      UserError: there is none, it cannot be read, or it has more than `vocabulary` tokens.
    """
    path = Path(os.path.expanduser(folder)) / "tokenizer.json"
    try:
        content = find.read(path, LARGEST)
    except UserError as error:
        reason = find.problem(error)
        raise UserError(
            f"--data.tokenizer={folder} has no readable tokenizer.json ({reason}): name a folder with one."
        ) from error
    with said_as(lambda problem: f"{path} is no tokenizer ({problem}): save one there with save_pretrained."):
        tokenizer = of_text(content.decode())
    needed = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values()))
    if needed > vocabulary:
        raise UserError(
            f"--data.vocabulary={vocabulary} is too small for the {needed} tokens of {path}: give that many."
        )
    return tokenizer


def encode(tokenizer, sentences: Iterable[str], length: int) -> np.ndarray:
    """Token ids, int32 [n, length]: sentences cut after, or filled up with 0 to, so many.

    Raises:
      UserError: the tokenizer has another token than padding at 0, or cannot read a sentence.
    """
    first = tokenizer.convert_ids_to_tokens(PAD)
    if first is None or first.strip("[]<>").lower() != "pad":
        raise UserError(
            f"The tokenizer has {first!r} as token 0, expected padding such as {_PAD}: "
            f"leave --data.tokenizer out to train one."
        )
    with (
        said_as(
            lambda problem: (
                f"The tokenizer cannot read the sentences ({problem}): leave --data.tokenizer out to train one."
            )
        ),
        quiet_panics(),
    ):
        texts = list(sentences)
        asked = dict(add_special_tokens=False, truncation=True, max_length=length)
        ids = tokenizer(texts, **asked)["input_ids"] if texts else []  # of none it makes no list
    rows = np.full((len(ids), length), PAD, np.int32)
    for row, of_sentence in zip(rows, ids, strict=True):
        row[: len(of_sentence)] = of_sentence
    return rows


def encode_pairs(tokenizer, text: Examples, length: int) -> Examples:
    """Pairs of sentences as {"first", "second": int32 [n, length], "label": int32 [n]}."""
    return {side: encode(tokenizer, text[side], length) for side in ("first", "second")} | {"label": text["label"]}


def of_text(text: str):
    """The tokenizer that the text of a tokenizer.json describes."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is no PyTorch: tokenizers need none
    with importing("transformers"):
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

    with quiet_panics():
        tokenizer = Tokenizer.from_str(text)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=_PAD, unk_token=_UNKNOWN)
