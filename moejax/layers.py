"""The three layers: a router, a dispatch, stacked experts, a combine. Each returns its output and its routing.

Axis letters: g groups, t tokens of a group, e experts, c slots of an expert, d model width.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from moejax.dispatch import combine_dense, combine_slots, dispatch_tokens, sparse_masks
from moejax.experts import apply_experts, apply_experts_to_all, stack_experts
from moejax.routing import (
    DenseRouting,
    SoftRouting,
    TopKRouting,
    assign,
    dense_routing,
    expert_capacity,
    soft_routing,
    top_k_routing,
)

MakeExpert = Callable[[nnx.Rngs], nnx.Module]
_init_router = nnx.initializers.normal(stddev=0.02)


class DenseMoE(nnx.Module):
    """All experts see all tokens; the router weighs their answers (Jacobs et al. 1991)."""

    def __init__(self, d: int, num_experts: int, make_expert: MakeExpert, *, rngs: nnx.Rngs):
        self.router = nnx.Param(_init_router(rngs.params(), (d, num_experts)))
        self.experts = stack_experts(make_expert, num_experts, rngs)

    def __call__(self, x: Float[Array, "g t d"], *, train: bool = False) -> tuple[Float[Array, "g t d"], DenseRouting]:
        routing = dense_routing(x.astype(jnp.float32) @ self.router[...])
        return combine_dense(routing.gates, apply_experts_to_all(self.experts, x)), routing


class SparseMoE(nnx.Module):
    """Each token goes to its k best experts while they have room (Shazeer et al. 2017; GShard; Switch).

    Tokens compete for slots within groups of `group_size` consecutive tokens (None: the groups that `x` comes in).
    """

    def __init__(
        self,
        d: int,
        num_experts: int,
        make_expert: MakeExpert,
        *,
        k: int = 2,
        capacity_factor: float = 1.25,
        eval_capacity_factor: float = 2.0,
        group_size: int | None = None,
        rngs: nnx.Rngs,
    ):
        self.router = nnx.Param(_init_router(rngs.params(), (d, num_experts)))
        self.experts = stack_experts(make_expert, num_experts, rngs)
        self.num_experts, self.k, self.group_size = num_experts, k, group_size
        self.capacity_factor, self.eval_capacity_factor = capacity_factor, eval_capacity_factor

    def __call__(self, x: Float[Array, "g t d"], *, train: bool = False) -> tuple[Float[Array, "g t d"], TopKRouting]:
        grouped = x if self.group_size is None else x.reshape(-1, self.group_size, x.shape[-1])
        factor = self.capacity_factor if train else self.eval_capacity_factor
        capacity = expert_capacity(grouped.shape[1], self.num_experts, self.k, factor)

        logits = grouped.astype(jnp.float32) @ self.router[...]
        routing = assign(top_k_routing(logits, self.k), capacity)
        dispatch, combine = sparse_masks(routing, capacity)
        y = combine_slots(combine, apply_experts(self.experts, dispatch_tokens(dispatch, grouped)))
        return y.reshape(x.shape), routing


class SoftMoE(nnx.Module):
    """Experts see mixtures of tokens and tokens get mixtures of answers: fully differentiable, nothing dropped.

    Puigcerver et al. 2023 ("From Sparse to Soft Mixtures of Experts"), algorithm 2: tokens and slot parameters are
    L2-normalised, with one learnt scale. It begins at `scale`: 1 in the paper, which leaves both softmaxes nearly even
    until it has grown; a larger one routes from the start.
    """

    def __init__(
        self, d: int, num_experts: int, make_expert: MakeExpert, *, slots: int, scale: float = 1.0, rngs: nnx.Rngs
    ):
        lecun = nnx.initializers.lecun_normal()(rngs.params(), (d, num_experts * slots))
        self.router = nnx.Param(lecun.reshape(d, num_experts, slots))
        self.scale = nnx.Param(jnp.full((), scale))
        self.experts = stack_experts(make_expert, num_experts, rngs)

    def __call__(self, x: Float[Array, "g t d"], *, train: bool = False) -> tuple[Float[Array, "g t d"], SoftRouting]:
        tokens = _unit_length(x.astype(jnp.float32), axis=-1)
        slots = _unit_length(self.router[...], axis=0)
        routing = soft_routing(jnp.einsum("gtd,dec->gtec", tokens, self.scale[...] * slots))
        y = apply_experts(self.experts, dispatch_tokens(routing.dispatch, x))
        return combine_slots(routing.combine, y), routing


def _unit_length(x: Array, axis: int) -> Array:
    # eps inside the root: blank image patches are zero rows, and the norm's gradient there would be NaN.
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=axis, keepdims=True) + 1e-6)
