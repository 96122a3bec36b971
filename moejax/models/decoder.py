"""A decoder-only Transformer that foretells the next token, with experts in every (or every n-th) block.

    tokens ─ embeddings ─ [ + attention(norm) ─ + MoE(norm) ] × depth ─ norm ─ · embeddings ─ logits

It is that of Mixtral and OLMoE: RMSNorm before each part (Zhang, Sennrich 2019), rotary positions (Su et al. 2021),
SwiGLU (Shazeer 2020), several query heads to a key (Ainslie et al. 2023), attention to the last `data.length` tokens.
No token sees one that comes later, unless the layers or their slots let it (`notes`): so all of a text is learnt at
once, and is written token by token with a cache.

Axis letters: b texts, t tokens, s keys of the cache and new ones, d width, a heads, c numbers of a head, y vocabulary.
"""

from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int, Integer, Key
from pydantic import Field

from moejax.experts import GLU
from moejax.layers import SparseMoE
from moejax.models.attention import attend, rotated, visible
from moejax.models.dropout import dropout
from moejax.models.embeddings import vectors_of
from moejax.models.layer import EXPERTS, SharedExpertOptions, layer_maker
from moejax.options import Choice, Options, Positive, Share
from moejax.routers import ROUTERS
from moejax.routing import Routing, ZeroComputation


class DecoderOptions(Options):
    """The sizes of a decoder."""

    width: Annotated[int, Field(ge=2, le=2**16)] = 64
    """Numbers per token (d)."""
    depth: Annotated[int, Field(ge=1, le=256)] = 3
    """Blocks, each with attention and an MoE or a feed-forward layer."""
    heads: Annotated[int, Field(ge=1, le=2**10)] = 4
    """Heads of attention, which share the width."""
    key_heads: Annotated[int | None, Field(ge=1, le=2**10)] = None
    """Heads of keys and values, each for as many heads of queries; none: as many as these."""
    moe_every: Annotated[int, Field(ge=1, le=256)] = 1
    """An MoE layer in every n-th block, counted from the last; the others have one expert that all tokens go to."""
    hidden: Annotated[int | None, Field(ge=1, le=2**20)] = None
    """Hidden width of blocks without MoE; none: that of all experts of a token together."""
    tied: bool = True
    """Whether the logits are products with the embeddings, or have a matrix of their own."""
    normalize_queries: bool = False
    """Whether queries and keys go through an RMSNorm, as in OLMoE."""
    epsilon: Positive = 1e-5
    """What RMSNorm adds to the mean square."""
    theta: Positive = 10_000.0
    """Base of the rotary positions' wavelengths."""
    dropout: Share = 0.0
    """Share of the embeddings and of each part's outputs set to 0 in training."""
    remat: bool = False
    """Compute each block's activations again on the way back, so that they take less memory."""


class DecoderLayerOptions(SharedExpertOptions):
    """Its experts are SwiGLU unless another is named."""

    expert: Annotated[str, Choice(EXPERTS)] = "glu"
    """What an expert is."""


class Cache(NamedTuple):
    """The last keys and values of each block: those of the token at position p lie in slot p % slots."""

    keys: tuple[Float[Array, "b slots a c"], ...]
    values: tuple[Float[Array, "b slots a c"], ...]
    length: Int[Array, ""]  # tokens so far


class Attention(nnx.Module):
    """Causal multi-head attention with rotary positions."""

    def __init__(self, config: Options, *, dtype: DTypeLike, rngs: nnx.Rngs):
        m, head = config.model, config.model.width // config.model.heads
        self.window, self.head, self.theta = config.data.length, head, m.theta
        widths = [heads * head for heads in (m.heads, m.key_heads or m.heads)]

        def linear(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, use_bias=False, dtype=dtype, rngs=rngs)

        self.query, self.key, self.value = (linear(m.width, width) for width in (*widths, widths[1]))
        self.output = linear(widths[0], m.width)
        norms = [nnx.RMSNorm(width, epsilon=m.epsilon, dtype=dtype, rngs=rngs) for width in widths]
        self.query_norm, self.key_norm = norms if m.normalize_queries else (None, None)

    def __call__(
        self, x: Float[Array, "b t d"], past: tuple[Array, Array] | None, start: Int[Array, ""] | int
    ) -> tuple[Float[Array, "b t d"], tuple[Float[Array, "b t a c"], Float[Array, "b t a c"]]]:
        """`past`: keys and values of a cache, when `start` tokens were read. Returns also the keys and values of x."""
        at = start + jnp.arange(x.shape[1])
        queries, keys = self.query(x), self.key(x)
        if self.query_norm is not None:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        queries, keys = rotated(self.heads(queries), at, self.theta), rotated(self.heads(keys), at, self.theta)
        new = keys, self.heads(self.value(x))
        of_keys, places = new, at
        if past is not None:
            of_keys = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1), past, new)
            places = jnp.concatenate([positions_of_slots(past[0].shape[1], start), at])
        seen = visible(at, places, self.window)
        y = attend(queries, *of_keys, seen)
        return self.output(y.reshape(*x.shape[:2], -1)), new

    def heads(self, x: Float[Array, "b t n"]) -> Float[Array, "b t a c"]:
        return x.reshape(*x.shape[:2], -1, self.head)


class Block(nnx.Module):
    """Attention, then an MoE layer or one expert that all tokens go to; each after a norm, and added to the tokens."""

    def __init__(self, config: Options, moe: bool, *, dtype: DTypeLike, rngs: nnx.Rngs):
        m = config.model
        self.attention_norm, self.norm = (
            nnx.RMSNorm(m.width, epsilon=m.epsilon, dtype=dtype, rngs=rngs) for _ in range(2)
        )
        self.attention = Attention(config, dtype=dtype, rngs=rngs)
        self.moe = layer_maker(config.moe, m.width, dtype)(rngs) if moe else None
        hidden = m.hidden or active_width(config.moe)
        self.mlp = None if moe else GLU(m.width, hidden, dtype=dtype, rngs=rngs)
        self.rate = m.dropout

    def __call__(
        self,
        x: Float[Array, "b t d"],
        tokens: Int[Array, "b t"],
        past: tuple[Array, Array] | None = None,
        start: Int[Array, ""] | int = 0,
        *,
        train: bool,
        key: Key[Array, ""] | None,
    ) -> tuple[Float[Array, "b t d"], Routing | None, tuple[Array, Array]]:
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        y, new = self.attention(self.attention_norm(x), past, start)
        x = x + dropout(keys[0], y, self.rate)
        if self.moe is None:
            y, routing = self.mlp(self.norm(x)), None
        else:
            ids = {"ids": tokens} if isinstance(self.moe, SparseMoE) else {}  # what a hash router hashes
            y, routing = self.moe(self.norm(x), train=train, key=keys[1], **ids)
        return x + dropout(keys[2], y, self.rate), routing, new


class Decoder(nnx.Module):
    """Tokens in, for each of them the logits of the next one out."""

    options, reads = DecoderOptions, "tokens"
    layer_options = DecoderLayerOptions

    @staticmethod
    def config_problems(config: Any) -> Iterator[str]:
        m = config.model
        keys = m.key_heads or m.heads
        if m.width % m.heads or m.width // m.heads % 2:
            yield f"model.width is {m.width}, of which {m.heads} heads (model.heads) get no even part; change one."
        if m.heads % keys:
            yield f"model.key_heads is {keys}, which does not divide model.heads, {m.heads}; use a divisor."
        if m.hidden is not None and 1 in (m.moe_every, m.depth):
            yield (
                f"model.hidden is {m.hidden}, but every block has an MoE layer (model.moe_every {m.moe_every},"
                f" model.depth {m.depth}); it is the width of blocks without one: leave it out."
            )

    @staticmethod
    def notes(config: Any) -> Iterator[str]:
        """What to tell of a configuration that works."""
        if culprit := sees_later(config.moe):
            yield (
                f"{culprit} sees tokens that come later, so that the loss is less than that of what the model could"
                " foretell, and no text can be generated."
            )
        elif culprit := yields_to_later(config.moe):
            yield (
                f"With {culprit} the experts of a token depend on tokens that come later, a little, so that the loss is"
                " not quite that of what the model could foretell; moe.router softmax_top_k with moe.dispatch grouped,"
                " which has no slots, knows nothing of them."
            )

    def __init__(self, config: Options, num_classes: int, *, rngs: nnx.Rngs):
        m, dtype = config.model, jnp.dtype(config.train.dtype)
        self.tokens, self.rate, self.remat, self.dtype = config.data.length, m.dropout, m.remat, dtype
        # Logits of a tied model are of size 1 at first.
        self.embeddings = nnx.Param(m.width**-0.5 * jax.random.normal(rngs.params(), (num_classes, m.width)))
        with_moe = [(m.depth - 1 - i) % m.moe_every == 0 for i in range(m.depth)]
        self.blocks = nnx.List([Block(config, moe, dtype=dtype, rngs=rngs) for moe in with_moe])
        self.norm = nnx.RMSNorm(m.width, epsilon=m.epsilon, dtype=dtype, rngs=rngs)
        self.head = None if m.tied else nnx.Linear(m.width, num_classes, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(
        self, batch: dict[str, Array], *, train: bool, key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "b t y"], tuple[Routing, ...]]:
        """`batch["tokens"]`: whole numbers [b, t]; `key`: for dropout and noisy routers. The logits are float32."""
        logits, routings, _ = self._read(batch["tokens"], None, train, key)
        return logits, routings

    def go_on(
        self, tokens: Integer[Array, "b t"], cache: Cache
    ) -> tuple[Float[Array, "b t y"], tuple[Routing, ...], Cache]:
        """The same of tokens that follow those that `cache` holds, and the cache of all."""
        return self._read(tokens, cache, False, None)

    def cache(self, texts: int) -> Cache:
        """An empty one, for so many texts."""
        attention = self.blocks[0].attention
        shape = texts, attention.window, attention.key.out_features // attention.head, attention.head
        empty = tuple(jnp.zeros(shape, self.dtype) for _ in self.blocks)
        return Cache(empty, empty, jnp.zeros((), jnp.int32))

    def _read(
        self, tokens: Integer[Array, "b t"], cache: Cache | None, train: bool, key: Key[Array, ""] | None
    ) -> tuple[Float[Array, "b t y"], tuple[Routing, ...], Cache | None]:
        keys = [jax.random.fold_in(key, i) if train and key is not None else None for i in range(len(self.blocks) + 1)]
        tokens = tokens.astype(jnp.int32)
        x = dropout(keys[-1], vectors_of(self.embeddings[...].astype(self.dtype), tokens), self.rate)
        pasts = [None] * len(self.blocks) if cache is None else zip(cache.keys, cache.values, strict=True)
        start = 0 if cache is None else cache.length
        routings, news = [], []

        def apply(block: Block, x: Array, past: tuple | None, key: Array | None) -> tuple:
            return block(x, tokens, past, start, train=train, key=key)

        run = jax.checkpoint(apply) if self.remat and train else apply
        for block, past, block_key in zip(self.blocks, pasts, keys[:-1], strict=True):
            x, routing, new = run(block, x, past, block_key)
            routings += [] if routing is None else [routing]
            news.append(new)
        x = self.norm(x)
        logits = x @ self.embeddings[...].astype(x.dtype).T if self.head is None else self.head(x)
        return logits.astype(jnp.float32), tuple(routings), None if cache is None else kept(cache, news)


def sees_later(moe: Options) -> str:
    """What lets a token see later ones; empty for layers in which each is by itself."""
    if moe.layer == "soft":
        return "moe.layer soft"
    return f"moe.router {moe.router}" if moe.layer == "sparse" and not ROUTERS[moe.router].token_choice else ""


def yields_to_later(moe: Options) -> str:
    """What lets later tokens change a token's experts, as they take slots from its second choices; empty if nothing.

    Text is written without slots and noise, so that there this holds for no layer.
    """
    if moe.layer != "sparse":
        return ""
    if moe.router == "sinkhorn":
        return "moe.router sinkhorn"
    in_turn = moe.k == 1 and moe.router != "relu" and getattr(moe, "priority", "position") == "position"
    if in_turn or moe.dispatch == "grouped":
        return ""
    factors = {name: getattr(moe, name) for name in ("capacity_factor", "eval_capacity_factor")}
    choices = moe.k * ZeroComputation.of(moe).computing_share(moe.num_experts)
    scarce = [f"moe.{name} {f:g}" for name, f in factors.items() if f is not None and f * choices < moe.num_experts]
    return " and ".join(scarce)


def active_width(moe: Options) -> int:
    """The hidden width of one expert with as many FLOPs as those that a token goes to."""
    of_token = moe.k if moe.layer == "sparse" else moe.num_experts
    return moe.hidden * of_token + getattr(moe, "shared", 0)


def flops_per_token(config: Options, vocabulary: int, keys: float) -> float:
    """Of a token's way forward: two for each weight that it meets and, in scores and values, for each of its keys.

    ValueError for layers whose tokens do not meet all of k experts: soft ones, and those with experts that compute
    nothing.
    """
    if config.moe.layer == "soft" or ZeroComputation.of(config.moe).total:
        raise ValueError("flops_per_token counts the experts that tokens choose, each of which must compute something.")
    m, moe, d = config.model, config.moe, config.model.width
    of_keys = (m.key_heads or m.heads) / m.heads
    attention = 2 * d * d * (1 + of_keys) + 2 * keys * d
    matrices = {"glu": 3, "mlp": 2}
    learns = moe.num_experts > 1 and getattr(moe, "router", "") not in ("random", "hash")
    with_moe = matrices[moe.expert] * d * active_width(moe) + d * moe.num_experts * learns
    without = matrices["glu"] * d * (m.hidden or active_width(moe))
    layers = -(-m.depth // m.moe_every)
    return 2 * (m.depth * attention + layers * with_moe + (m.depth - layers) * without + vocabulary * d)


def positions_of_slots(slots: int, length: Int[Array, ""] | int) -> Int[Array, " slots"]:
    """The position of the token in each slot of a cache that has read so many; negative for an empty slot."""
    last = length - 1
    return last - (last - jnp.arange(slots)) % slots


def kept(cache: Cache, news: list[tuple[Array, Array]]) -> Cache:
    """The cache with the keys and values of the tokens that were read after its own, as many as it has room for."""
    slots, count = cache.keys[0].shape[1], news[0][0].shape[1]
    fits = min(slots, count)
    where = (cache.length + jnp.arange(count - fits, count)) % slots

    def put(old: Array, new: Array) -> Array:
        return old.at[:, where].set(new[:, -fits:])

    keys, values = (tuple(map(put, olds, new)) for olds, new in zip(cache[:2], zip(*news, strict=True), strict=True))
    return Cache(keys, values, cache.length + count)
