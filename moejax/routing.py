"""Routing: a router's logits in, one small pytree out.

Every Mixture-of-Experts layer answers two questions for each token: which experts see it, and with what weight do
their answers come back? A routing is that answer as a value. Dispatch, losses, metrics and pictures are all derived
from it, and none of them recomputes it.

    dense_routing(logits)                every expert, weighted by its probability
    top_k_routing(logits, k)             the k most probable experts ...
    assign(routing, capacity)            ... and each token's slot in them, while there is room
    soft_routing(logits)                 every slot a mixture of tokens, every token a mixture of slots

Axis letters: g groups, t tokens of a group, e experts, k choices of a token, c slots of an expert (its capacity).
Pure functions of float32 logits; no Flax, no state.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class DenseRouting(NamedTuple):
    """Every token goes to every expert (Jacobs et al. 1991)."""

    logits: Float[Array, "g t e"]
    probs: Float[Array, "g t e"]  # softmax of the logits: the weight of each expert's answer

    @property
    def gates(self) -> Float[Array, "g t e"]:
        """Share of each expert in each token's output; sums to 1 over experts."""
        return self.probs


class TopKRouting(NamedTuple):
    """Every token goes to k experts, best first, as long as they have a free slot (Shazeer et al. 2017)."""

    logits: Float[Array, "g t e"]
    probs: Float[Array, "g t e"]  # softmax of the logits, before the choice
    experts: Int[Array, "g t k"]  # the chosen experts, best first
    weights: Float[Array, "g t k"]  # the weight of each chosen expert's answer
    slots: Int[Array, "g t k"] | None = None  # the token's slot in that expert, -1 where it was dropped

    @property
    def gates(self) -> Float[Array, "g t e"]:
        """Weight of each expert in each token's output; 0 where not chosen or dropped."""
        kept = self.weights if self.slots is None else self.weights * (self.slots >= 0)
        return (kept[..., None] * self._chosen()).sum(2)

    @property
    def choices(self) -> Float[Array, "g t e"]:
        """1 where the token chose the expert, before anything was dropped."""
        return self._chosen().sum(2)

    def _chosen(self) -> Float[Array, "g t k e"]:
        return jax.nn.one_hot(self.experts, self.probs.shape[-1], dtype=self.probs.dtype)


class SoftRouting(NamedTuple):
    """Every slot takes a mixture of all tokens of the group (Puigcerver et al. 2023, "Soft MoE", section 2.1)."""

    logits: Float[Array, "g t e c"]
    dispatch: Float[Array, "g t e c"]  # softmax over tokens: what each slot is made of
    combine: Float[Array, "g t e c"]  # softmax over all slots: what each token's output is made of

    @property
    def gates(self) -> Float[Array, "g t e"]:
        """Share of each expert in each token's output; sums to 1 over experts."""
        return self.combine.sum(-1)


Routing = DenseRouting | TopKRouting | SoftRouting


def dense_routing(logits: Float[Array, "g t e"]) -> DenseRouting:
    """Weigh all experts by their softmax probability."""
    return DenseRouting(logits, jax.nn.softmax(logits, axis=-1))


def top_k_routing(logits: Float[Array, "g t e"], k: int) -> TopKRouting:
    """Choose each token's k most probable experts; no slots yet.

    The softmax comes before the choice, so that k = 1 still gives the router a gradient. For k > 1 the k
    probabilities are renormalised to sum to 1 (GShard, Lepikhin et al. 2020, algorithm 1); for k = 1 the probability
    itself is the weight (Switch, Fedus et al. 2021, equation 2). Ties go to the lower expert index.
    """
    probs = jax.nn.softmax(logits, axis=-1)
    weights, experts = jax.lax.top_k(probs, k)
    if k > 1:
        weights = weights / weights.sum(-1, keepdims=True)
    return TopKRouting(logits, probs, experts, weights)


def expert_capacity(tokens: int, num_experts: int, k: int, capacity_factor: float) -> int:
    """Slots of each expert for a group of `tokens`: factor 1 fits a perfectly balanced choice exactly.

    At least 1, at most `tokens`, since a token sits in an expert at most once.
    """
    slots = round(capacity_factor * k * tokens / num_experts, 6)  # 1.1 · 100 / 2 is 55, not 55.000000000000007
    return min(tokens, max(1, math.ceil(slots)))


def assign(routing: TopKRouting, capacity: int) -> TopKRouting:
    """Give each choice the next free slot of its expert; -1 when all `capacity` slots are taken.

    Filling order (GShard): all first choices in token order, then all second choices, and so on. The weights stay as
    they are: a dropped choice simply adds nothing to its token's output.
    """
    g, t, k = routing.experts.shape
    num_experts = routing.probs.shape[-1]
    chosen = jax.nn.one_hot(routing.experts, num_experts, dtype=jnp.int32)  # g t k e
    in_order = chosen.swapaxes(1, 2).reshape(g, k * t, num_experts)
    before = (jnp.cumsum(in_order, axis=1) - in_order).reshape(g, k, t, num_experts).swapaxes(1, 2)
    slots = (before * chosen).sum(-1)
    return routing._replace(slots=jnp.where(slots < capacity, slots, -1))


def soft_routing(logits: Float[Array, "g t e c"]) -> SoftRouting:
    """Two softmaxes of one array: over the tokens for dispatch, over all slots of all experts for combine."""
    return SoftRouting(logits, jax.nn.softmax(logits, axis=1), jax.nn.softmax(logits, axis=(2, 3)))
