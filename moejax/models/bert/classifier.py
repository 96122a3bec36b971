"""A pre-trained encoder that tells whether two sentences mean the same, whatever their order.

    [CLS] a [SEP] b [SEP] ─ encoder ─ ( pooled [CLS], mean of a, mean of b, their |difference| and product ) ─ classes

Axis letters: b pairs, t pieces of a pair, d width, y classes.
"""

from collections.abc import Iterator
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key
from pydantic import Field

from moejax.data.mrpc_pieces import LENGTH
from moejax.experts import MLP
from moejax.models.bert.encoder import Encoder
from moejax.models.bert.sentence_order import swap_sentences
from moejax.models.dropout import dropout
from moejax.models.layer import SharedExpertOptions
from moejax.options import Choice, NotNegative, Options, Share
from moejax.routing import Routing


class EncoderOptions(Options):
    """The sizes of an encoder, and how its experts begin."""

    width: Annotated[int, Field(ge=1, le=2**16)] = 48
    """Numbers per token (d)."""
    depth: Annotated[int, Field(ge=1, le=64)] = 2
    """Blocks."""
    heads: Annotated[int, Field(ge=1, le=1024)] = 12
    """Attention heads."""
    dropout: Share = 0.0
    """Share of the embeddings, of what each layer adds and of the pair's features set to 0 in training."""
    moe_every: Annotated[int, Field(ge=1, le=64)] = 2
    """Every so many-th block, counted from the last, has an MoE layer in place of its feed-forward layer."""
    upcycling_noise: NotNegative = 0.0
    """Noise on each expert's copy of the feed-forward layer, as a share of each parameter's deviation."""
    room: Annotated[int, Field(ge=1, le=2 * 4096)] = 64
    """In training a batch is packed into so many pieces a pair, for padding costs time; the rest is cut."""


class EncoderLayerOptions(SharedExpertOptions):
    """Its experts are copies of a feed-forward layer."""

    expert: Annotated[str, Choice({"mlp": MLP})] = "mlp"
    """What an expert is."""


class EncoderClassifier(nnx.Module):
    """A pre-trained BERT on both sentences, its feed-forward layers upcycled to MoE layers; a linear head."""

    options, reads = EncoderOptions, "pieces"
    layer_options = EncoderLayerOptions
    draws = True  # the order of a pair's sentences

    @staticmethod
    def config_problems(config: Any) -> Iterator[str]:
        m = config.model
        if m.width % m.heads:
            yield f"model.heads is {m.heads}, which does not divide model.width, {m.width}."

    tokens = 2 * LENGTH  # at evaluation: the pieces of both orders

    def __init__(self, config: Options, num_classes: int, *, rngs: nnx.Rngs):
        m, dtype = config.model, jnp.dtype(config.train.dtype)
        self.encoder = Encoder(config, dtype=dtype, rngs=rngs)
        self.pooler = nnx.Linear(m.width, m.width, rngs=rngs)
        small = nnx.initializers.normal(0.02)
        self.head = nnx.Linear(5 * m.width, num_classes, kernel_init=small, rngs=rngs)
        self.rate = m.dropout

    def __call__(
        self, batch: dict[str, Array], *, train: bool, key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "b y"], tuple[Routing, ...]]:
        """`batch["pieces"]`: int [b, t], 0 for padding; `batch["second"]`: bool [b, t]. The logits are float32.

        In training the order of each pair's sentences is random (no key: as given); at evaluation the logits are the
        mean of both orders.
        """
        if train:
            return self.one_order(batch["pieces"], batch["second"], train=True, key=key)
        logits, routings = self.one_order(*both_orders(batch), train=False, key=None)
        return logits.reshape(-1, 2, logits.shape[-1]).mean(1), routings

    def content(self, batch: dict[str, Array]) -> Float[Array, "b t d"]:
        """The vector of each piece, of both orders; NaN for padding."""
        pieces, _ = both_orders(batch)
        vectors = self.encoder.embeddings.piece[...].astype(jnp.float32)[pieces]
        real = jnp.where(self.encoder.seen(pieces, train=False)[..., None], vectors, jnp.nan)
        return real.reshape(batch["pieces"].shape[0], -1, real.shape[-1])

    def one_order(
        self, pieces: Int[Array, "b t"], second: Bool[Array, "b t"], *, train: bool, key: Key[Array, ""] | None
    ) -> tuple[Float[Array, "b y"], tuple[Routing, ...]]:
        """Logits and routings of each pair in one order of its sentences."""
        encoder_key = dropout_key = None
        if key is not None:
            order_key, encoder_key, dropout_key = jax.random.split(key, 3)
            turned = jax.random.bernoulli(order_key, shape=(pieces.shape[0], 1))
            pieces, second = (
                jnp.where(turned, new, old)
                for new, old in zip(swap_sentences(pieces, second), (pieces, second), strict=True)
            )
        x, routings = self.encoder(pieces, second, train=train, key=encoder_key)
        pooled = jnp.tanh(self.pooler(x[:, 0]))
        seen = self.encoder.seen(pieces, train=train)
        u, v = (mean(x, seen & which) for which in (~second, second))
        features = jnp.concatenate([pooled, u, v, jnp.abs(u - v), u * v], axis=-1)
        return self.head(dropout(dropout_key, features, self.rate)), routings


def both_orders(batch: dict[str, Array]) -> tuple[Int[Array, "b2 t"], Bool[Array, "b2 t"]]:
    """The pieces of each pair and which are of its second sentence: as given, then the other way round."""
    given = batch["pieces"], batch["second"]
    both = (jnp.stack(pair, axis=1) for pair in zip(given, swap_sentences(*given), strict=True))
    pieces, second = (of_pair.reshape(-1, of_pair.shape[-1]) for of_pair in both)
    return pieces, second


def mean(x: Float[Array, "b t d"], mask: Bool[Array, "b t"]) -> Float[Array, "b d"]:
    """The mean over the pieces of a mask; zeros if it has none."""
    return jnp.einsum("btd,bt->bd", x, mask / jnp.maximum(mask.sum(1, keepdims=True), 1))
