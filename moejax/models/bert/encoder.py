"""A BERT encoder over word pieces, some of its feed-forward layers Mixtures of Experts.

    pieces ─ embeddings ─ [ norm(+ attention) ─ norm(+ feed-forward or MoE) ] × depth

Devlin et al. 2019, "BERT"; every norm comes after its residual sum. The weights come from a file (`weights`).

Axis letters: b pairs, t pieces of a pair, g n the same or, packed, one group of all; d width, a heads, y classes.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Key

from moejax.data.mrpc_pieces import PADDING
from moejax.dispatch.index_tables import IndexTables
from moejax.experts import MLP
from moejax.kernels.bfloat16 import matmul
from moejax.layers import SparseMoE
from moejax.models.bert.packing import fitting, pack, pack_ids, packing, unpack
from moejax.models.dropout import dropout
from moejax.models.embeddings import vectors_of
from moejax.models.layer import layer_maker
from moejax.options import Options
from moejax.routing import Routing

POSITIONS, SEGMENTS = 512, 2
exact_gelu = partial(jax.nn.gelu, approximate=False)


def layer_norm(d: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """BERT's layer normalisation: epsilon 1e-12, the variance computed from the differences to the mean."""
    return nnx.LayerNorm(d, epsilon=1e-12, use_fast_variance=False, rngs=rngs)


def mixed(linear: nnx.Linear, x: Float[Array, "*n d"]) -> Float[Array, "*n h"]:
    """A linear map in mixed precision: the product's operands in `linear.dtype`, everything else in float32."""
    product = matmul(x.astype(linear.dtype), linear.kernel[...].astype(linear.dtype))
    return product + jnp.expand_dims(linear.bias[...], range(product.ndim - 1))


class Embeddings(nnx.Module):
    """Each piece's vector plus its position's plus its sentence's, normalised."""

    def __init__(self, vocabulary: int, d: int, *, rngs: nnx.Rngs):
        def table(rows: int) -> nnx.Param:
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), (rows, d)))

        self.piece, self.position, self.segment = table(vocabulary), table(POSITIONS), table(SEGMENTS)
        self.norm = layer_norm(d, rngs)

    def __call__(
        self, pieces: Int[Array, "g n"], positions: Int[Array, "g n"], segments: Int[Array, "g n"]
    ) -> Float[Array, "g n d"]:
        of_pieces = vectors_of(self.piece[...], pieces)
        return self.norm(of_pieces + self.position[...][positions] + self.segment[...][segments])


class Attention(nnx.Module):
    """Multi-head self-attention within each pair (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, m: Options, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.heads = m.heads
        self.query_key_value = nnx.Linear(m.width, 3 * m.width, dtype=dtype, rngs=rngs)
        self.output = nnx.Linear(m.width, m.width, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "g n d"], mask: Bool[Array, "b t"], where: IndexTables | None
    ) -> Float[Array, "g n d"]:
        b, t = mask.shape
        q, k, v = jnp.split(
            unpack(mixed(self.query_key_value, x), where, t).reshape(b, t, 3 * self.heads, -1), 3, axis=2
        )
        scores = jnp.einsum("bqac,bkac->baqk", q, k) / jnp.sqrt(jnp.float32(q.shape[-1]))
        weights = jax.nn.softmax(jnp.where(mask[:, None, None, :], scores, -1e30), axis=-1)
        y = jnp.einsum("baqk,bkac->bqac", weights.astype(v.dtype), v)
        return mixed(self.output, pack(y.reshape(b, t, -1), where))


class Block(nnx.Module):
    """Attention and a feed-forward layer, or in its place an MoE layer, each with dropout, residual sum and norm."""

    def __init__(self, config: Options, moe: bool, *, dtype: DTypeLike, rngs: nnx.Rngs):
        m, hidden = config.model, config.moe.hidden

        def make_mlp(rngs: nnx.Rngs) -> MLP:
            return MLP(m.width, hidden, activation=exact_gelu, dtype=dtype, rngs=rngs)

        self.attention = Attention(m, dtype=dtype, rngs=rngs)
        self.attention_norm = layer_norm(m.width, rngs)
        self.mlp = None if moe else make_mlp(rngs)
        self.moe = layer_maker(config.moe, m.width, dtype, make_mlp)(rngs) if moe else None
        self.norm = layer_norm(m.width, rngs)
        self.rate, self.dtype = m.dropout, dtype

    def __call__(
        self,
        x: Float[Array, "g n d"],
        mask: Bool[Array, "b t"],
        where: IndexTables | None,
        *,
        train: bool,
        key: Key[Array, ""] | None,
    ) -> tuple[Float[Array, "g n d"], Routing | None]:
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        x = self.attention_norm(x + dropout(keys[0], self.attention(x, mask, where), self.rate))
        if self.moe is None:
            y, routing = self.mlp(x, linear=mixed), None
        else:
            tokens = {"mask": mask}
            if where is not None:
                token = where.choice_of_row[None]
                tokens = {"mask": token >= 0}
                if isinstance(self.moe, SparseMoE):  # the only layer whose losses tell sequences apart
                    tokens["starts"] = token % mask.shape[1] == 0
            y, routing = self.moe(x.astype(self.dtype), train=train, key=keys[1], **tokens)
        return self.norm(x + dropout(keys[2], y.astype(jnp.float32), self.rate)), routing


class Encoder(nnx.Module):
    """Word pieces in, a vector for each out. Every `moe_every`-th block, counted from the last, has an MoE layer."""

    def __init__(self, config: Options, *, dtype: DTypeLike, rngs: nnx.Rngs):
        m = config.model
        self.embeddings = Embeddings(config.data.vocabulary, m.width, rngs=rngs)
        self.blocks = nnx.List(
            [Block(config, (m.depth - 1 - i) % m.moe_every == 0, dtype=dtype, rngs=rngs) for i in range(m.depth)]
        )
        self.rate, self.room = m.dropout, m.room

    def seen(self, pieces: Int[Array, "b t"], *, train: bool) -> Bool[Array, "b t"]:
        """False for padding, pieces of 0; in training also for what a batch has beyond `room` pieces a pair."""
        mask = pieces != PADDING
        return fitting(mask, pieces.shape[0] * self.room) if train and self.room < pieces.shape[1] else mask

    def __call__(
        self, pieces: Int[Array, "b t"], second: Bool[Array, "b t"], *, train: bool, key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "b t d"], tuple[Routing, ...]]:
        """Pieces that are not `seen` are ignored, and their output is undefined. In training the others are packed.

        `key`: for dropout and routers with noise.
        """
        b, t = pieces.shape
        mask = self.seen(pieces, train=train)
        where = packing(pieces != PADDING, b * self.room) if train and self.room < t else None
        positions = jnp.broadcast_to(jnp.arange(t), (b, t))
        keys = [jax.random.fold_in(key, i) if train and key is not None else None for i in range(len(self.blocks) + 1)]
        x = self.embeddings(*(pack_ids(ids, where) for ids in (pieces, positions, second.astype(jnp.int32))))
        x = dropout(keys[-1], x, self.rate)
        routings = []
        for block, block_key in zip(self.blocks, keys[:-1], strict=True):
            x, routing = block(x, mask, where, train=train, key=block_key)
            routings += [] if routing is None else [routing]
        return unpack(x, where, t), tuple(routings)
