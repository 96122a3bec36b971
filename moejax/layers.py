"""The layers: a router, a dispatch, stacked experts, a combine. Each returns its output and its routing.

Axis letters: g groups, t tokens of a group, e experts, c slots of an expert, d model width.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from moejax.arguments import sparse_problems
from moejax.dispatch import (
    combine_dense,
    combine_slots,
    dispatch_tokens,
    einsum_dispatch,
    gather_dispatch,
    grouped_over_mesh,
)
from moejax.experts import (
    apply_experts,
    apply_experts_to_all,
    apply_experts_to_groups,
    can_be_grouped,
    key_for,
    stack_experts,
)
from moejax.mesh import TOKENS, lay_out
from moejax.routers import DEFAULT_OPTIONS, ROUTERS, Context, DenseRouter, RouterOptions, SoftRouter
from moejax.routing import DenseRouting, SoftRouting, SparseRouting, expert_capacity

MakeExpert = Callable[[nnx.Rngs], nnx.Module]
SLOT_DISPATCHES = {"einsum": einsum_dispatch, "gather": gather_dispatch}


class DenseMoE(nnx.Module):
    """All experts see all tokens; the router weighs their answers (Jacobs et al. 1991).

    `make_gate` makes the network that computes the router's logits [g, t, e]; without it they are linear.
    """

    def __init__(
        self,
        d: int,
        num_experts: int,
        make_expert: MakeExpert,
        *,
        temperature: float = 1.0,
        learn_temperature: bool = False,
        final_temperature: float | None = None,
        make_gate: MakeExpert | None = None,
        rngs: nnx.Rngs,
    ):
        self.router = DenseRouter(
            d,
            num_experts,
            temperature=temperature,
            learn_temperature=learn_temperature,
            final_temperature=final_temperature,
            make_gate=make_gate,
            rngs=rngs,
        )
        self.experts = stack_experts(make_expert, num_experts, rngs)

    def __call__(
        self,
        x: Float[Array, "g t d"],
        *,
        train: bool = False,
        key: Key[Array, ""] | None = None,
        mask: Bool[Array, "g t"] | None = None,
        router_input: Float[Array, "g t r"] | None = None,
        assigned: Int[Array, "g t"] | None = None,
    ) -> tuple[Float[Array, "g t d2"], DenseRouting]:
        """Apply the layer.

        Args:
          router_input: what the router looks at, d numbers a token; None: the tokens themselves.
          assigned: in guided training, the expert that each token is meant for.
        """
        key = key if train else None
        looked_at = x if router_input is None else router_input
        routing = self.router(looked_at, mask, key=key_for(self.router.gate, key, stream=3), assigned=assigned)
        return combine_dense(routing.gates, apply_experts_to_all(self.experts, x, key_for(self.experts, key))), routing


class SparseMoE(nnx.Module):
    """Each token goes to its k best experts while they have room (Shazeer et al. 2017; GShard; Switch).

    Args:
      k: experts of a token; for expert choice, its mean.
      router: a name in `ROUTERS`.
      dispatch: "einsum", "gather", or "grouped", which drops nothing and needs no capacity.
      capacity_factor, eval_capacity_factor: room in the experts, in training and at evaluation; 1 fits a perfectly
        balanced choice exactly, None every choice.
      group_size: tokens compete for slots within groups of so many consecutive ones, across the groups that `x` comes
        in; the last group is filled up with padding. None: the groups that `x` comes in. On a mesh these are the same
        groups, of consecutive tokens of the whole batch, so that the number of devices decides over no token.
      make_shared: an expert that every token goes to, beside its k (DeepSeek, Qwen2-MoE).
      shared_gate: whether its answer is multiplied by sigmoid(x · w) (Qwen2-MoE).

    Raises ValueError, in one sentence, for arguments that make no sense.
    """

    def __init__(
        self,
        d: int,
        num_experts: int,
        make_expert: MakeExpert,
        *,
        k: int = 2,
        router: str = "softmax_top_k",
        options: RouterOptions = DEFAULT_OPTIONS,
        dispatch: Literal["einsum", "gather", "grouped"] = "einsum",
        capacity_factor: float | None = 1.25,
        eval_capacity_factor: float | None = 2.0,
        group_size: int | None = None,
        make_shared: MakeExpert | None = None,
        shared_gate: bool = False,
        rngs: nnx.Rngs,
    ):
        problems = sparse_problems(
            num_experts=num_experts,
            k=k,
            router=router,
            expert_groups=options.expert_groups,
            chosen_groups=options.chosen_groups,
            dispatch=dispatch,
            capacity_factor=capacity_factor,
            eval_capacity_factor=eval_capacity_factor,
            group_size=group_size,
        )
        if problems:
            raise ValueError(problems[0])
        self.router = ROUTERS[router](d, num_experts, k, options, rngs=rngs)
        self.experts = stack_experts(make_expert, num_experts, rngs)
        if dispatch == "grouped" and not can_be_grouped(self.experts):
            raise ValueError(
                f"dispatch is 'grouped', which needs experts whose call takes `linear` (as MLP and GLU do), not"
                f" {type(self.experts).__name__}; use 'gather'."
            )
        self.shared = make_shared(rngs) if make_shared else None
        self.shared_gate = nnx.Linear(d, 1, use_bias=False, rngs=rngs) if shared_gate else None
        self.num_experts, self.k, self.dispatch, self.group_size = num_experts, k, dispatch, group_size
        self.capacity_factor, self.eval_capacity_factor = capacity_factor, eval_capacity_factor

    def __call__(
        self,
        x: Float[Array, "g t d"],
        *,
        train: bool = False,
        key: Key[Array, ""] | None = None,
        mask: Bool[Array, "g t"] | None = None,
        ids: Int[Array, "g t"] | None = None,
        router_input: Float[Array, "g t r"] | None = None,
    ) -> tuple[Float[Array, "g t d2"], SparseRouting]:
        """Apply the layer.

        Args:
          train: whether to use the capacity of training.
          key: for routers with noise, in training; None: no noise.
          mask: False where a token is padding: it takes no slot, counts nowhere and gets zeros.
          ids: what a hash router hashes; None: the token's position t.
          router_input: what the router looks at, d numbers a token; None: the tokens themselves.

        Returns the output and the routing, in groups of `group_size` (`ungroup` undoes that).
        """
        if ids is None:
            ids = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
        looked_at = None if router_input is None else into_groups(self.group_size, router_input, mask, ids)[0]
        tokens, mask, ids = lay_out(into_groups(self.group_size, x, mask, ids), TOKENS)
        capacity = self.capacity(tokens.shape[1], train)
        routing = self.router(
            tokens if looked_at is None else looked_at, capacity, Context(train, key if train else None, mask, ids)
        )
        if self.dispatch == "grouped":
            y = grouped_over_mesh(apply_experts_to_groups, self.experts, tokens, routing)
        else:
            experts = partial(apply_experts, self.experts, key=key_for(self.experts, key if train else None))
            y = SLOT_DISPATCHES[self.dispatch](experts, tokens, routing, capacity)
        y = ungroup(y, x.shape[:2])
        return y if self.shared is None else y + self.answer_of_shared(x), routing

    def capacity(self, tokens: int, train: bool = False) -> int | None:
        """Slots of an expert in a group of so many tokens; None for the grouped dispatch, which has none."""
        if self.dispatch == "grouped":
            return None
        factor = self.capacity_factor if train else self.eval_capacity_factor
        return tokens if factor is None else expert_capacity(tokens, self.num_experts, self.k, factor)

    def answer_of_shared(self, x: Float[Array, "g t d"]) -> Float[Array, "g t d2"]:
        """What the shared expert adds to every token."""
        y = self.shared(x)
        return y if self.shared_gate is None else jax.nn.sigmoid(self.shared_gate(x)).astype(y.dtype) * y


class SoftMoE(nnx.Module):
    """Experts see mixtures of tokens and tokens get mixtures of answers: fully differentiable, nothing dropped.

    Puigcerver et al. 2023 ("From Sparse to Soft Mixtures of Experts"), algorithm 2. `scale` is where the router's
    learnt scale begins.
    """

    def __init__(
        self, d: int, num_experts: int, make_expert: MakeExpert, *, slots: int, scale: float = 1.0, rngs: nnx.Rngs
    ):
        self.router = SoftRouter(d, num_experts, slots, scale=scale, rngs=rngs)
        self.experts = stack_experts(make_expert, num_experts, rngs)

    def __call__(
        self,
        x: Float[Array, "g t d"],
        *,
        train: bool = False,
        key: Key[Array, ""] | None = None,
        mask: Bool[Array, "g t"] | None = None,
        router_input: Float[Array, "g t r"] | None = None,
    ) -> tuple[Float[Array, "g t d2"], SoftRouting]:
        """Apply the layer; `router_input`: what the router looks at, d numbers a token; None: the tokens themselves."""
        routing = self.router(x if router_input is None else router_input, mask)
        key = key_for(self.experts, key if train else None)
        y = apply_experts(self.experts, dispatch_tokens(routing.dispatch, x), key)
        return combine_slots(routing.combine, y), routing


def into_groups(
    size: int | None,
    x: Float[Array, "g t d"],
    mask: Bool[Array, "g t"] | None,
    ids: Int[Array, "g t"],
) -> tuple[Float[Array, "g2 t2 d"], Bool[Array, "g2 t2"] | None, Int[Array, "g2 t2"]]:
    """Regroup all tokens by `size` in their order; padding, off in the mask, fills up the last group."""
    if size is None or size == x.shape[1]:
        return x, mask, ids
    missing = -x.shape[0] * x.shape[1] % size
    if missing and mask is None:
        mask = jnp.ones(x.shape[:2], bool)

    def regroup(a: Shaped[Array, "g t *rest"]) -> Shaped[Array, "g2 t2 *rest"]:
        flat = a.reshape(-1, *a.shape[2:])
        return jnp.pad(flat, [(0, missing), *[(0, 0)] * (a.ndim - 2)]).reshape(-1, size, *a.shape[2:])

    return regroup(x), None if mask is None else regroup(mask), regroup(ids)


def ungroup(values: Shaped[Array, "g2 t2 *rest"], shape: tuple[int, int]) -> Shaped[Array, "g t *rest"]:
    """Undo `into_groups`: values of regrouped tokens for the tokens as they came, [g, t] = `shape`."""
    g, t = shape
    return values.reshape(-1, *values.shape[2:])[: g * t].reshape(g, t, *values.shape[2:])
