"""Routers that learn nothing, as baselines. Their logits are 0 and their distribution is uniform."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from moejax.options import require, up_to
from moejax.routing.decision import TopKRouting
from moejax.routing.replay import given_experts
from moejax.routing.top_k import best


def hash_routing(
    ids: Int[Array, "g t"], num_experts: int, k: int, seed: int = 0, *, given: Int[Array, "g t k"] | None = None
) -> TopKRouting:
    """Look up each id's k experts in a fixed random table; each weighs 1 / k (Hash layers, Roller et al. 2021).

    Ids are whole numbers of any size, such as vocabulary entries or positions; equal ids get the same experts. An id is
    hashed to one of the table's 4096 rows; `seed` draws the table.
    """
    require("k", k, up_to(num_experts))
    if given is not None:
        return _equal_weights(given_experts(given, ids.shape, k), num_experts)
    table = np.random.default_rng(seed).random((_TABLE, num_experts)).argsort(-1)[:, :k]
    # Multiplication by an odd number permutes the ids, so that neighbouring ids get rows far apart (Knuth 6.4).
    rows = (ids.astype(jnp.uint32) * jnp.uint32(2654435769)) >> jnp.uint32(32 - _TABLE_BITS)
    return _equal_weights(jnp.asarray(table, jnp.int32)[rows], num_experts)


def random_routing(
    key: Key[Array, ""],
    groups: int,
    tokens: int,
    num_experts: int,
    k: int,
    *,
    given: Int[Array, "g t k"] | None = None,
) -> TopKRouting:
    """k different random experts for each token, by the key; each weighs 1 / k."""
    scores = jax.random.uniform(key, (groups, tokens, num_experts))
    return _equal_weights(best(scores, k, given), num_experts)


def _equal_weights(experts: Int[Array, "g t k"], num_experts: int) -> TopKRouting:
    flat = jnp.zeros((*experts.shape[:2], num_experts))
    chosen = (experts >= 0).astype(flat.dtype)
    return TopKRouting(flat, flat + 1 / num_experts, experts, chosen / jnp.maximum(chosen.sum(-1, keepdims=True), 1))


_TABLE_BITS = 12
_TABLE = 2**_TABLE_BITS
