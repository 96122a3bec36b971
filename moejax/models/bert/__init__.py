"""A pre-trained BERT for sentence pairs: read `encoder`, then `classifier`; `weights` fills them from published files.

`packing` leaves the padding out of a batch, `sentence_order` turns a pair round.
"""

from moejax.models.bert.classifier import EncoderClassifier
from moejax.models.bert.weights import fill, pretrained

__all__ = ["EncoderClassifier", "fill", "pretrained"]
