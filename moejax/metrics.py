"""Metrics of routing: what a router did, as a few small arrays. Pure functions, cheap enough to keep on.

Padding counts nowhere. Axis letters: g groups, t tokens of a group, e experts; y labels (or clusters) of the examples.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from moejax.losses import distribution, mean_over_tokens, only
from moejax.routing import ExpertChoiceRouting, Routing, SparseRouting, TopKRouting
from moejax.sharding import all_gathered

Load = Float[Array, " *n e"]


def load(routing: Routing, *, after_capacity: bool = False) -> Float[Array, " e"]:
    """Share of each expert in the layer's work; sums to 1.

    Sparse: of all choices, the share that fell on the expert; `after_capacity` counts those that were not dropped.
    Dense and soft experts all compute the same amount, so there it is the expert's mean share in the output.
    """
    only(Routing, routing, "load", "the routing that a layer returns")
    if isinstance(routing, TopKRouting | ExpertChoiceRouting):
        shares = routing.dispatched if after_capacity else routing.choices
    else:
        shares = routing.gates
    total = shares.sum((0, 1))
    return total / jnp.maximum(total.sum(), 1e-9)


def real_tokens(routing: Routing) -> Float[Array, ""]:
    """How many tokens are not padding."""
    only(Routing, routing, "real_tokens", "the routing that a layer returns")
    if routing.mask is None:
        return jnp.float32(math.prod(routing.logits.shape[:2]))
    return routing.mask.sum(dtype=jnp.float32)


def experts_per_token(routing: Routing) -> Float[Array, ""]:
    """Mean number of experts that a token chose, or that chose it, before capacity; all of a dense or soft layer."""
    only(Routing, routing, "experts_per_token", "the routing that a layer returns")
    if isinstance(routing, TopKRouting | ExpertChoiceRouting):
        return mean_over_tokens(routing, routing.choices.sum(-1))
    return mean_over_tokens(routing, jnp.full(routing.gates.shape[:2], routing.gates.shape[-1], routing.gates.dtype))


def relative_load(of: Routing | Load) -> Load:
    """Load over an equal share of it: 1 for all experts is perfect balance. `of`: a routing or loads, as below."""
    loads = _loads(of, "relative_load")
    return loads * loads.shape[-1]


def max_violation(of: Routing | Load) -> Float[Array, " *n"]:
    """MaxVio: the largest load over the mean load, minus 1; 0 is perfect balance (Wang et al. 2024, section 4.1)."""
    return relative_load(_loads(of, "max_violation")).max(-1) - 1


def dead_experts(of: Routing | Load, share: float = 0.1) -> Int[Array, " *n"]:
    """Number of experts whose load is below `share` of an equal one."""
    return jnp.sum(relative_load(_loads(of, "dead_experts")) < share, axis=-1)


def diversity(of: Routing | Load) -> Float[Array, " *n"]:
    """exp(entropy of the load) / E: the share of the experts that are in use, 1/E if one alone, 1 if all alike."""
    loads = _loads(of, "diversity")
    return jnp.exp(jax.scipy.special.entr(loads).sum(-1)) / loads.shape[-1]


def dropped(routing: Routing) -> Float[Array, ""]:
    """Share of all choices that found no free slot; 0 where nothing can be dropped.

    Expert choice: the share of tokens that no expert took.
    """
    only(Routing, routing, "dropped", "the routing that a layer returns")
    if isinstance(routing, ExpertChoiceRouting):
        return mean_over_tokens(routing, jnp.asarray(routing.choices.max(-1) == 0, jnp.float32))
    if isinstance(routing, TopKRouting) and routing.slots is not None:
        chosen = routing.experts >= 0
        return jnp.sum(chosen & (routing.slots < 0), dtype=jnp.float32) / jnp.maximum(chosen.sum(dtype=jnp.float32), 1)
    return jnp.zeros(())


def experts_computed(routing: Routing) -> Float[Array, ""]:
    """Mean number of experts that computed something for a token; choices that were dropped do not count."""
    return mean_over_tokens(routing, experts_of_token(routing))


def experts_of_token(routing: Routing) -> Float[Array, "g t"]:
    """How many experts computed something for each token of a sparse layer."""
    sparse: SparseRouting = only(SparseRouting, routing, "experts_computed", "a sparse layer")
    return sparse.dispatched[..., : getattr(sparse, "computing", None)].sum(-1)


def adapts(routing: Routing) -> bool:
    """Whether it is the routing that says how many experts compute for a token, so that tokens may differ in that."""
    if isinstance(routing, TopKRouting):
        return routing.zero_computation is not None or routing.sparsity_weight is not None
    return isinstance(routing, ExpertChoiceRouting)


def gate_entropy(routing: Routing) -> Float[Array, ""]:
    """Mean over tokens of the entropy of the router's distribution over experts, in nats: 0 decided, ln E undecided."""
    return mean_over_tokens(routing, jax.scipy.special.entr(distribution(routing, "gate_entropy")).sum(-1))


def confidence(routing: Routing) -> Float[Array, ""]:
    """Mean over tokens of the highest probability of an expert: 1 decided, 1/E undecided."""
    return mean_over_tokens(routing, distribution(routing, "confidence").max(-1))


def label_counts(
    of: Routing | Float[Array, "*n e"], labels: Integer[Array, "*#n"], num_labels: int
) -> Float[Array, "{num_labels} e"]:
    """How much of each label's tokens each expert got, the sum of their gates: the table of the next two.

    `of`: a routing, or gates as a routing has them; `labels`: one for each token, or what broadcasts to that.
    """
    gates = of.gates if isinstance(of, Routing) else of
    tokens = jnp.shape(gates)[:-1]
    fits = jnp.ndim(labels) == len(tokens) > 0 and all(a in (1, b) for a, b in zip(labels.shape, tokens, strict=True))
    if not fits:
        raise ValueError(
            f"label_counts got gates {jnp.shape(gates)} and labels {jnp.shape(labels)}; give a label for each token,"
            f" {tokens}."
        )
    gates, labels = all_gathered((gates, jnp.broadcast_to(labels, tokens)))
    one_hot = jax.nn.one_hot(labels, num_labels, dtype=gates.dtype)
    return one_hot.reshape(-1, num_labels).T @ gates.reshape(-1, gates.shape[-1])


def bits_per_byte(loss: float, bytes_per_token: float) -> float:
    """Of a language model's loss, nats a token, what a byte of the text costs; the same for any tokens."""
    return loss / math.log(2) / bytes_per_token


def dispatch_entropy(counts: Float[Array, "y e"]) -> Float[Array, ""]:
    """Entropy of the labels (or clusters) within an expert, in nats, averaged over experts by their share.

    0 if each expert serves one label, at most ln y (Chen et al. 2022, "Towards Understanding Mixture of Experts in Deep
    Learning", section 6). `counts[y, e]`: examples of label y that went to expert e. 0 without examples.
    """
    _check_counts(counts, "dispatch_entropy")
    share = counts.sum(0) / jnp.maximum(counts.sum(), 1e-9)
    within = counts / jnp.maximum(counts.sum(0, keepdims=True), 1e-9)
    return jnp.sum(share * jax.scipy.special.entr(within).sum(0))


def label_information(counts: Float[Array, "y e"]) -> Float[Array, ""]:
    """Normalised mutual information of label and expert: 0 independent, 1 each tells the other.

    Divided by the mean of the two entropies, as scikit-learn's `normalized_mutual_info_score` does; 0 where both are 0.
    """
    of_label, of_expert, of_both = _entropies(counts, "label_information")
    mean = (of_label + of_expert) / 2
    return jnp.where(mean > 1e-9, (of_label + of_expert - of_both) / jnp.maximum(mean, 1e-9), 0.0)


def uncertainty_coefficient(counts: Float[Array, "y e"], within: Float[Array, ""] | float = 0.0) -> Float[Array, ""]:
    """Normalised mutual information of label and expert, by what is decided: 0 the label says nothing, 1 all of it.

    Divided by the expert's entropy (Theil 1970; scikit-learn's `completeness_score`), less `within`: the mean entropy
    of a token's own experts, such as ln k for k of equal weight, which no label of tokens can tell. So it is 1 wherever
    equal labels get equal experts, however many labels and choices there are, and 0 where nothing is decided.
    """
    of_label, of_expert, of_both = _entropies(counts, "uncertainty_coefficient")
    decided = of_expert - within
    return jnp.where(decided > 1e-4, (of_label + of_expert - of_both) / jnp.maximum(decided, 1e-4), 0.0)


def token_shares(gates: Float[Array, "*n e"]) -> Float[Array, "*n e"]:
    """Each expert's share of a token's gates, whatever their sum and sign; zeros for padding and dropped tokens."""
    gates = jnp.abs(gates)
    return gates / jnp.maximum(gates.sum(-1, keepdims=True), 1e-9)


def _loads(of: Any, name: str) -> Load:
    """The load [..., e] of a routing, or loads themselves: several layers', or a mean over batches."""
    if isinstance(of, Routing):
        return load(of)
    if not isinstance(of, jax.Array | np.ndarray) or of.ndim == 0:
        raise TypeError(f"{name} is of a routing or a load [..., e], not of a {type(of).__name__}.")
    return jnp.asarray(of)


def _entropies(counts: Any, name: str) -> tuple[Float[Array, ""], ...]:
    """The entropies of label, of expert and of both together, in nats."""
    _check_counts(counts, name)
    joint = counts / jnp.maximum(counts.sum(), 1e-9)
    return tuple(jax.scipy.special.entr(shares).sum() for shares in (joint.sum(1), joint.sum(0), joint))


def _check_counts(counts: Any, name: str) -> None:
    if isinstance(counts, Routing) or jnp.ndim(counts) != 2:
        raise TypeError(f"{name} is of a table [y, e], not of a {type(counts).__name__}; use metrics.label_counts.")
