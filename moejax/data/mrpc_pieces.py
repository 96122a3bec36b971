"""MRPC as word pieces of the pre-trained encoder: [CLS] first sentence [SEP] second sentence [SEP]."""

import dataclasses

import numpy as np

from moejax.data import minilm, mrpc
from moejax.data.dataset import Dataset, Dir, Examples, Path, Source, Validation, Vocabulary

NAME = "mrpc_pieces"
LENGTH = 104  # pieces of the longest pair of MRPC: nothing of it is cut
PADDING = 0  # the id of [PAD]


def load(
    source: Source = "auto",
    dir: Dir = None,
    validation: Validation = 5000,
    seed: int = 0,
    *,
    tokenizer: Path = None,
    vocabulary: Vocabulary = 30522,
) -> Dataset:
    """The pairs as `pieces`; the other arguments and errors as in `moejax.data.load`.

    Args:
      tokenizer: folder with MiniLM's files; none fetches them.
      vocabulary: rows of the encoder's table of embeddings.
    """
    pairs = mrpc.read_pairs(source, dir, validation, seed)
    tool = minilm.load_tokenizer(tokenizer, dir)
    splits = {name: pieces(tool, getattr(pairs, name)) for name in ("train", "validation", "test")}
    sha256 = {file.name: file.sha256 for file in (minilm.TOKENIZER, minilm.WEIGHTS)}  # of the weights that go with it
    return dataclasses.replace(pairs, name=NAME, sha256=pairs.sha256 | sha256, tokenizer=tool.to_str(), **splits)


def pieces(tokenizer, pairs: Examples, length: int = LENGTH) -> Examples:
    """Pairs as arrays: `pieces` int32 [n, length], 0 after the end, `second` bool [n, length], `label` int32 [n].

    `second` marks the second sentence with its [SEP]. Of a pair that is too long, the longer sentence loses its end.
    """
    tokenizer.enable_truncation(length, strategy="longest_first")
    encoded = tokenizer.encode_batch(list(zip(pairs["first"], pairs["second"], strict=True)))
    ids = np.full((len(encoded), length), PADDING, np.int32)
    second = np.zeros(ids.shape, bool)
    for row, pair in enumerate(encoded):
        ids[row, : len(pair.ids)] = pair.ids
        second[row, : len(pair.ids)] = pair.type_ids
    return {"pieces": ids, "second": second, "label": pairs["label"]}
