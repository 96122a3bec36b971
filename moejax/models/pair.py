"""A classifier of sentence pairs: each word meets its counterparts in the other sentence, experts read the result.

    ids ─ embeddings ─ attend to the other sentence ─ compare ─ words of d numbers ─ pooled: a summary of d numbers
    sentence (summary + words) = one token ─ MoE ─ u, v ─ [u + v, |u - v|, u·v] ─ classes

Attend and compare are those of Parikh et al. 2016 ("A Decomposable Attention Model"); recurrent experts over compared
words are close to Chen et al. 2017 (ESIM). Experts do not see the words themselves: with only 3,668 training pairs, a
network that does memorises them in two epochs. Of each word they see how it differs from its counterparts, and whether
it and the n-grams around it occur in the other sentence. The order of the two sentences makes no difference.

Axis letters: b pairs, s t words of a sentence, v width of an embedding, d of a word and a sentence, y classes.
"""

from collections.abc import Iterator
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key
from pydantic import Field

from moejax.models.embeddings import vectors_of
from moejax.models.layer import EXPERTS, LayerOptions, layer_maker
from moejax.models.pair_experts import Convolution, OnSummary, Recurrence, flatten, pool
from moejax.options import Choice, Options, Share
from moejax.routing import Routing

_GRAMS = 4  # numbers a word from `shared_ngrams`
_SAME_WORD = 5.0  # initial attention logit between equal words


class PairOptions(Options):
    """The sizes of a pair classifier."""

    kernel: Annotated[int, Field(ge=1, le=9)] = 6
    """Words that a cnn expert's filter sees."""
    width: Annotated[int, Field(ge=1, le=2**16)] = 48
    """Numbers of a word, and of a sentence (d), after they are compared."""
    embedding: Annotated[int, Field(ge=1, le=2**14)] = 64
    """Numbers of a token's embedding."""
    dropout: Share = 0.0
    """Share of the embeddings, of the pooled words and of the pair's features set to 0 in training."""


class PairLayerOptions(LayerOptions):
    """Its experts are recurrent or convolutional networks, too."""

    expert: Annotated[str, Choice(EXPERTS | {"cnn": Convolution, "rnn": Recurrence})] = "mlp"
    """What an expert is."""


class PairClassifier(nnx.Module):
    """Words attend to the other sentence of a pair; an MoE layer routes each sentence; a linear head."""

    options, reads = PairOptions, "first"
    layer_options = PairLayerOptions
    experts_return_tokens = False  # but a summary of a sentence
    tokens = 2

    @staticmethod
    def config_problems(config: Any) -> Iterator[str]:
        if getattr(config.moe, "dispatch", None) == "grouped":
            yield "moe.dispatch is grouped, which the experts of model.name pair cannot use; use gather."

    def __init__(self, config: Options, num_classes: int, *, rngs: nnx.Rngs):
        m, moe, s, dtype = config.model, config.moe, config.data.length, jnp.dtype(config.train.dtype)
        self.dropout, d, self.dtype = m.dropout, m.width, dtype
        self.embeddings = nnx.Param(0.1 * jax.random.normal(rngs.params(), (config.data.vocabulary, m.embedding)))
        self.attend = nnx.Linear(m.embedding, m.embedding, use_bias=False, dtype=dtype, rngs=rngs)
        self.same_word = nnx.Param(jnp.float32(_SAME_WORD))
        self.compare = nnx.Linear(m.embedding + _GRAMS, d, dtype=dtype, rngs=rngs)
        self.summarize = nnx.Linear(2 * d + 2 * _GRAMS + 2, d, dtype=dtype, rngs=rngs)

        def make_expert(rngs: nnx.Rngs) -> nnx.Module:
            if moe.expert == "cnn":
                return Convolution(s, d, moe.hidden, kernel=m.kernel, dtype=dtype, rngs=rngs)
            if moe.expert == "rnn":
                return Recurrence(s, d, moe.hidden, dtype=dtype, rngs=rngs)
            return OnSummary(EXPERTS[moe.expert](d, moe.hidden, dtype=dtype, rngs=rngs), d)

        self.moe = layer_maker(moe, d, dtype, make_expert)(rngs)
        self.head = nnx.Linear(3 * d, num_classes, dtype=dtype, rngs=rngs)

    def __call__(
        self, batch: dict[str, Array], *, train: bool, key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "b y"], tuple[Routing, ...]]:
        """`batch["first"]`, `batch["second"]`: token ids [b, s], 0 for padding; `key`: for dropout and noisy routers.

        The logits are float32.
        """
        ids = jnp.stack([batch["first"], batch["second"]], axis=1)
        present = (ids > 0).astype(self.dtype)
        keep_embedding, keep_pooled, keep_features = self.dropouts(ids.shape[0], train, key)
        # All words of a pair lose the same numbers, so that equal words stay equal.
        x = vectors_of(self.embeddings[...].astype(self.dtype), ids) * keep_embedding[:, None, None]

        same = matches(batch["first"], batch["second"])
        grams = jnp.stack([shared_ngrams(same), shared_ngrams(same.swapaxes(1, 2))], axis=1).astype(self.dtype)
        difference = jnp.abs(x - self.counterparts(x, same, present))
        words = jax.nn.gelu(self.compare(jnp.concatenate([difference, grams], axis=-1)))

        pooled = pool(words, present) * keep_pooled[:, None]
        summary = self.summarize(jnp.concatenate([pooled, counts(ids, grams)], axis=-1))
        router_key = None if key is None else jax.random.fold_in(key, 1)
        sentences = flatten(summary, words, present)
        y, routing = self.moe(sentences, train=train, key=router_key, router_input=summary)
        u, v = y[:, 0], y[:, 1]
        features = jnp.concatenate([u + v, jnp.abs(u - v), u * v], axis=-1)
        return self.head(features * keep_features).astype(jnp.float32), (routing,)

    def content(self, batch: dict[str, Array]) -> Float[Array, "b t v"]:
        """The mean of a sentence's embeddings."""
        ids = jnp.stack([batch["first"], batch["second"]], axis=1)
        present = (ids > 0).astype(jnp.float32)
        total = jnp.einsum("bts,btsv->btv", present, vectors_of(self.embeddings[...].astype(jnp.float32), ids))
        return total / jnp.maximum(present.sum(-1, keepdims=True), 1)

    def dropouts(self, b: int, train: bool, key: Key[Array, ""] | None) -> list[Float[Array, "b n"]]:
        """Dropout's factors for embeddings, pooled words and features: 0, or above 1 to keep the mean."""
        d = self.compare.out_features
        widths = (self.embeddings.shape[-1], 2 * d, 3 * d)
        keep = jnp.ones((b, sum(widths)), self.dtype)
        if train and self.dropout and key is not None:  # one draw for all compiles faster
            keep = jax.random.bernoulli(key, 1 - self.dropout, keep.shape).astype(self.dtype) / (1 - self.dropout)
        return jnp.split(keep, (widths[0], widths[0] + widths[1]), axis=-1)

    def counterparts(
        self, x: Float[Array, "b 2 s v"], same: Bool[Array, "b s s"], present: Float[Array, "b 2 s"]
    ) -> Float[Array, "b 2 s v"]:
        """For each word the mean of the other sentence's words, weighted by how well they fit it."""
        a, b = x[:, 0], x[:, 1]
        fit = (
            jnp.einsum("bsv,btv->bst", self.attend(a), self.attend(b)) / a.shape[-1] ** 0.5 + self.same_word[...] * same
        )
        return jnp.stack([attend(fit, b, present[:, 1]), attend(fit.swapaxes(1, 2), a, present[:, 0])], axis=1)


def attend(
    fit: Float[Array, "b s t"], values: Float[Array, "b t v"], present: Float[Array, "b t"]
) -> Float[Array, "b s v"]:
    """Means of the values present, weighted by the softmax of their fit."""
    weights = jax.nn.softmax(jnp.where(present[:, None] > 0, fit.astype(jnp.float32), -1e9), axis=-1)
    return jnp.einsum("bst,btv->bsv", weights.astype(values.dtype), values)


def matches(first: Int[Array, "b s"], second: Int[Array, "b t"]) -> Bool[Array, "b s t"]:
    """Which words are the same; padding (0) equals nothing."""
    return (first[:, :, None] == second[:, None, :]) & (first > 0)[:, :, None]


def shared_ngrams(same: Bool[Array, "b s t"]) -> Float[Array, "b s m"]:
    """For each word of the first sentence, 1 where it is in the second, and likewise for the n-grams around it.

    m: the word; it and the next one; it and the one before; all three.
    """
    after = jnp.pad(same[:, 1:, 1:], ((0, 0), (0, 1), (0, 1)))
    before = jnp.pad(same[:, :-1, :-1], ((0, 0), (1, 0), (1, 0)))
    grams = (same, same & after, before & same, before & same & after)
    return jnp.stack([gram.any(-1) for gram in grams], axis=-1).astype(jnp.float32)


def counts(ids: Int[Array, "b 2 s"], grams: Float[Array, "b 2 s m"]) -> Float[Array, "b 2 n"]:
    """Of each sentence: share and number of words and n-grams in the other one, words in all, share of the rarity.

    A word's rarity is log(1 + id): ids count from frequent to rare byte pairs, so by Zipf's law this is about minus the
    logarithm of the word's frequency, up to a constant. Numbers of words are divided by 10.
    """
    present, rarity = (ids > 0).astype(grams.dtype)[..., None], jnp.log1p(ids.astype(grams.dtype))
    shared, total = (grams * present).sum(2), present.sum(2)
    rare = (grams[..., 0] * rarity).sum(-1) / jnp.maximum(rarity.sum(-1), 1)
    return jnp.concatenate([shared / jnp.maximum(total, 1), shared / 10, total / 10, rare[..., None]], axis=-1)
