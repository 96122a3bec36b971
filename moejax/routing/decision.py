"""What a router decides, as a value: a small pytree with documented shapes.

Axis letters: g groups, t tokens of a group, e experts, k choices of a token, c slots of an expert (its capacity).

A token that is padding has no experts, no slots and no weight, and counts in no loss and no metric: `mask` is False
there (None: no token is padding).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from moejax.widening import wide


class DenseRouting(NamedTuple):
    """Every token goes to every expert (Jacobs et al. 1991)."""

    logits: Float[Array, "g t e"]
    probs: Float[Array, "g t e"]  # softmax of the logits: the weight of each expert's output
    mask: Bool[Array, "g t"] | None = None
    assigned: Int[Array, "g t"] | None = None  # guided training: the expert assigned to the token ...
    guided: Float[Array, "g t e"] | None = None  # ... and the weights used in place of `probs`

    @property
    def gates(self) -> Float[Array, "g t e"]:
        """Share of each expert in each token's output; sums to 1 over experts, 0 for padding."""
        weights = self.probs if self.guided is None else self.guided
        return weights if self.mask is None else jnp.where(self.mask[..., None], weights, 0)


@jax.tree_util.register_static
@dataclass(frozen=True)
class ZeroComputation:
    """How many experts compute nothing: the last ones of a routing, in this order (see `routing.zero_computation`)."""

    zero: int = 0
    copy: int = 0
    constant: int = 0
    null: int = 0
    tau: float = 1.0  # how many times the choices of one of them an expert that computes is meant to get

    @classmethod
    def of(cls, o: Any) -> "ZeroComputation":
        """Those of a layer's options, as far as it has them."""
        counts = {kind: getattr(o, f"{kind}_experts", 0) for kind in ("zero", "copy", "constant", "null")}
        return cls(**counts, tau=getattr(o, "zero_computation_tau", 1.0))

    @property
    def total(self) -> int:
        """All of them."""
        return self.zero + self.copy + self.constant + self.null

    def computing_share(self, computing: int) -> float:
        """The share of all choices that so many experts that compute are meant to get together (MoE++, equation 8)."""
        return self.tau * computing / (self.tau * computing + self.total)


class TopKRouting(NamedTuple):
    """Every token goes to its k best experts, as long as they have a free slot (Shazeer et al. 2017).

    A token may choose fewer than k: those it chose come first.
    """

    logits: Float[Array, "g t e"]
    probs: Float[Array, "g t e"]  # the router's distribution over all experts, before the choice; sums to 1
    experts: Int[Array, "g t k"]  # the chosen experts, best first, or those given; -1 for none, as in padding
    weights: Float[Array, "g t k"]  # the weight of each chosen expert's output; 0 for none
    slots: Int[Array, "g t k"] | None = None  # the token's slot in that expert, -1 where it was dropped
    selection_probability: Float[Array, "g t e"] | None = None  # of noisy routers: see `noise.selection_probability`
    sparsity_weight: Float[Array, " g"] | None = None  # of ReLU routing: how much of `losses.sparsity_loss` it asks for
    mask: Bool[Array, "g t"] | None = None
    zero_computation: ZeroComputation | None = None  # which experts compute nothing; None: all compute
    starts: Bool[Array, "g t"] | None = None  # True where a sequence begins, as tokens follow through all groups

    @property
    def computing(self) -> int:
        """The number of experts that compute, the first ones."""
        return self.probs.shape[-1] - (self.zero_computation.total if self.zero_computation else 0)

    @property
    def kept(self) -> Bool[Array, "g t k"]:
        """Whether a choice is dispatched: neither none nor dropped."""
        return (self.experts if self.slots is None else self.slots) >= 0

    @property
    def gates(self) -> Float[Array, "g t e"]:
        """Weight of each expert in each token's output; 0 where not chosen or dropped."""
        return (jnp.where(self.kept, self.weights, 0)[..., None] * self._chosen()).sum(2)

    @property
    def choices(self) -> Float[Array, "g t e"]:
        """1 where the token chose the expert, before anything was dropped."""
        return self._chosen().sum(2)

    @property
    def dispatched(self) -> Float[Array, "g t e"]:
        """1 where the token is dispatched to the expert: chosen and not dropped."""
        return jnp.where(self.kept[..., None], self._chosen(), 0).sum(2)

    def _chosen(self) -> Float[Array, "g t k e"]:
        return jax.nn.one_hot(self.experts, self.probs.shape[-1], dtype=wide(self.probs.dtype))


class ExpertChoiceRouting(NamedTuple):
    """Every expert takes its c best tokens (Zhou et al. 2022); a token may go to any number of experts."""

    logits: Float[Array, "g t e"]
    probs: Float[Array, "g t e"]  # the router's distribution over experts; sums to 1
    tokens: Int[Array, "g e c"]  # the token in each slot, best first; -1 where only padding was left
    weights: Float[Array, "g e c"]  # the weight of the expert's output for that token
    mask: Bool[Array, "g t"] | None = None

    @property
    def gates(self) -> Float[Array, "g t e"]:
        """Weight of each expert in each token's output; 0 where it did not take the token."""
        return (self._taken() * self.weights[..., None]).sum(2).swapaxes(1, 2)

    @property
    def choices(self) -> Float[Array, "g t e"]:
        """1 where the expert took the token."""
        return self._taken().sum(2).swapaxes(1, 2)

    @property
    def dispatched(self) -> Float[Array, "g t e"]:
        """1 where the token is dispatched to the expert: every choice, since each has its slot."""
        return self.choices

    def _taken(self) -> Float[Array, "g e c t"]:
        return jax.nn.one_hot(self.tokens, self.probs.shape[1], dtype=wide(self.probs.dtype))


class SoftRouting(NamedTuple):
    """Every slot takes a mixture of all tokens of the group (Puigcerver et al. 2023, "Soft MoE", section 2.1)."""

    logits: Float[Array, "g t e c"]
    dispatch: Float[Array, "g t e c"]  # softmax over tokens: what each slot is made of
    combine: Float[Array, "g t e c"]  # softmax over all slots: what each token's output is made of
    mask: Bool[Array, "g t"] | None = None

    @property
    def gates(self) -> Float[Array, "g t e"]:
        """Share of each expert in each token's output; sums to 1 over experts, 0 for padding."""
        return self.combine.sum(-1)


Routing = DenseRouting | TopKRouting | ExpertChoiceRouting | SoftRouting
SparseRouting = TopKRouting | ExpertChoiceRouting


def check_mask(mask: Bool[Array, "g t"] | None, logits: Float[Array, "g t *rest"]) -> None:
    """Raise ValueError unless the mask has the shape of the tokens: another one might broadcast."""
    if mask is not None and mask.shape != logits.shape[:2]:
        raise ValueError(f"mask has the shape {mask.shape}; the tokens' is {logits.shape[:2]}, groups and tokens.")


def mask_tokens(routing: TopKRouting, mask: Bool[Array, "g t"] | None) -> TopKRouting:
    """Take padding, where `mask` is False, out of a routing: it takes no slot and counts nowhere."""
    if mask is None:
        return routing
    check_mask(mask, routing.logits)
    real = mask[..., None]
    return routing._replace(
        experts=jnp.where(real, routing.experts, -1),
        weights=jnp.where(real, routing.weights, 0),
        mask=mask,
    )
