"""Dispatch by einsum: the definition that every other way is tested against.

    x_e = dispatch · x          "gtec,gtd->egcd"
    y   = combine · y_e         "gtec,egcd->gtd"

A soft layer's routing holds both arrays as they are; a sparse layer's are built from its routing by `sparse_masks`.
A dense layer's dispatch is the trivial one, every token to every expert, so only its combine is written out.

Cost of the two einsums, for T tokens in groups of S: 4·cf·k·T·S·d FLOPs, against 4·cf·k·T·d·h for MLP experts of
hidden width h: an overhead of S/h. The group size is the lever.

0 · NaN is NaN: a token whose values are not finite spoils its whole group here, where `gather` contains it.

Axis letters: g groups, t tokens of a group, e experts, c slots of an expert, d model width.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.routing import ExpertChoiceRouting, SparseRouting
from moejax.routing.capacity import check_slots
from moejax.widening import wide

SlotExperts = Callable[[Float[Array, "e g c d"]], Float[Array, "e g c d2"]]


def einsum_dispatch(
    experts: SlotExperts, x: Float[Array, "g t d"], routing: SparseRouting, capacity: int
) -> Float[Array, "g t d2"]:
    """Tokens into slots, experts, slots into tokens, by two products with masks (Shazeer et al. 2018; GShard)."""
    dispatch, combine = sparse_masks(routing, capacity)
    return combine_slots(combine, experts(dispatch_tokens(dispatch, x)))


def sparse_masks(routing: SparseRouting, capacity: int) -> tuple[Float[Array, "g t e c"], Float[Array, "g t e c"]]:
    """The dispatch array, 1 where a token sits in a slot, and the combine array, its weight; both float32 at least.

    Shazeer et al. 2018 ("Mesh-TensorFlow", appendix) and GShard write a sparse layer so. A token sits in an expert at
    most once, hence one number a token and expert says where: its slot, or -1.
    """
    check_slots(routing, capacity)
    dtype = wide(routing.probs.dtype)
    if isinstance(routing, ExpertChoiceRouting):
        dispatch = jax.nn.one_hot(routing.tokens, routing.probs.shape[1], axis=1, dtype=dtype)
        return dispatch, dispatch * routing.weights[:, None]
    num_experts = routing.probs.shape[-1]
    chosen = (routing.experts[..., None] == jnp.arange(num_experts)[None, None, None]).astype(jnp.int32)
    slot = (chosen * (routing.slots[..., None] + 1)).sum(2) - 1
    dispatch = (slot[..., None] == jnp.arange(capacity)[None, None, None]).astype(dtype)
    return dispatch, dispatch * routing.gates[..., None]


def dispatch_tokens(dispatch: Float[Array, "g t e c"], x: Float[Array, "g t d"]) -> Float[Array, "e g c d"]:
    """Fill the experts' slots: with one token each (sparse) or with a mixture of the group's tokens (soft)."""
    return jnp.einsum("gtec,gtd->egcd", dispatch.astype(x.dtype), x)


def combine_slots(combine: Float[Array, "g t e c"], y: Float[Array, "e g c d"]) -> Float[Array, "g t d"]:
    """Sum the experts' outputs for each token, weighted; a token that sits nowhere gets zeros."""
    return jnp.einsum("gtec,egcd->gtd", combine.astype(y.dtype), y)


def combine_dense(gates: Float[Array, "g t e"], y: Float[Array, "e g t d"]) -> Float[Array, "g t d"]:
    """Sum all experts' outputs for each token, weighted: `combine_slots` when every token has a slot everywhere."""
    return jnp.einsum("gte,egtd->gtd", gates.astype(y.dtype), y)


def default_group_size(hidden: int) -> int:
    """Tokens that compete for slots together so that dispatch and combine cost a quarter of the experts' FLOPs."""
    return max(1, hidden // 4)
