"""Auxiliary losses: what keeps a router balanced, decided, or on its assignment. Pure functions of the routing.

Each is a mean over all tokens of all groups, padding left out; choices are counted before capacity. A loss without
meaning for a kind of routing raises TypeError and names one that has; `auxiliary_loss` leaves it out.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from moejax.options import Count, Needs, NotNegative, checked
from moejax.routing import (
    DenseRouting,
    ExpertChoiceRouting,
    Routing,
    SoftRouting,
    SparseRouting,
    TopKRouting,
    meant_shares,
    null_alike,
    one_hot_of_assigned,
)
from moejax.sharding import all_gathered
from moejax.widening import widened

LogitRouting = DenseRouting | TopKRouting | ExpertChoiceRouting
OF_SPARSE = Needs("layer", ("sparse",))
BalanceOver = Literal["sequence", "micro_batch", "global_batch"]


@checked
def auxiliary_loss(
    routings: Routing | Sequence[Routing],
    *,
    balance: Annotated[NotNegative, OF_SPARSE] = 0.01,
    z: Annotated[NotNegative, OF_SPARSE] = 0.001,
    importance: NotNegative = 0.0,
    load: Annotated[NotNegative, OF_SPARSE, Needs("router", ("noisy_top_k", "vmoe"))] = 0.0,
    entropy: NotNegative = 0.0,
    usage: NotNegative = 0.0,
    assignment: Annotated[NotNegative, Needs("layer", ("dense",))] = 0.0,
    balance_over: Annotated[BalanceOver, OF_SPARSE] = "global_batch",
    micro_batches: Annotated[Count, Needs("balance_over", ("micro_batch",))] = 1,
    global_loads: Sequence[Float[Array, " e"]] | None = None,
) -> Float[Array, ""]:
    """The weighted sum of the losses below over all layers: what a training step adds to its task's loss.

    A loss without meaning for a kind of routing is left out. The sparsity loss has no weight here: it brings its own,
    from a router that asks for it. `micro_batches` and `global_loads`, one for each routing, are `load_balance_loss`'s.

    Args:
      routings: that of one layer or those of several.
      balance: sparse: weight of the load-balance loss.
      z: sparse: weight of the router z-loss.
      importance: weight of CV²(summed gates); Shazeer et al.: 0.1.
      load: weight of CV²(expected load); of routers with noise.
      entropy: weight of a token's mean entropy over experts.
      usage: weight of KL(mean use of the experts ‖ uniform).
      assignment: guided: weight of the cross-entropy.
      balance_over: the tokens that the load-balance loss wants evenly shared: each sequence's (DeepSeek-V3), each
        micro-batch's, or those of all of a step's batch (Qwen).
    """
    layers = [routings] if isinstance(routings, Routing) else list(routings)
    loads = [None] * len(layers) if global_loads is None else list(global_loads)
    if len(loads) != len(layers):
        raise ValueError(f"global_loads are {len(loads)} for {len(layers)} routings; give one for each.")

    def of_layer(routing: Routing, global_load: Float[Array, " e"] | None) -> Float[Array, ""]:
        only(Routing, routing, "auxiliary_loss", "the routing that a layer returns")
        balance_loss = partial(
            load_balance_loss, over=balance_over, micro_batches=micro_batches, global_load=global_load
        )
        terms: list[tuple[float, Callable[..., Array], Any]] = [
            (balance, balance_loss, TopKRouting),
            (z, router_z_loss, SparseRouting),
            (importance, importance_loss, Routing),
            (load, load_loss, TopKRouting),
            (entropy, entropy_loss, Routing),
            (usage, usage_loss, Routing),
            (assignment, assignment_loss, DenseRouting),
            (1.0, sparsity_loss, TopKRouting),
        ]
        used = [(weight, loss) for weight, loss, kind in terms if weight and isinstance(routing, kind)]
        return sum((weight * loss(routing) for weight, loss in used), start=jnp.zeros(()))

    return sum(map(of_layer, layers, loads), start=jnp.zeros(()))


@checked
def load_balance_loss(
    routing: Routing,
    *,
    over: BalanceOver = "global_batch",
    micro_batches: Annotated[Count, Needs("over", ("micro_batch",))] = 1,
    global_load: Float[Array, " e"] | None = None,
) -> Float[Array, ""]:
    """E · Σ_e f_e · P_e: f_e the share of all choices that fell on expert e, P_e its mean probability.

    A uniform routing gives exactly 1 whatever k is; the gradient flows through P_e alone.

    `over` says whose choices and probabilities these are. The fewer the tokens, the less experts can specialise (Qiu et
    al. 2025, "Demons in the Detail", the Qwen team):

    - `global_batch`: those of all tokens here. If they are only a part of the batch, one micro-batch or one device's,
      `global_load` is the load of the whole, as shares or as counts: the mean of the losses of equal parts, and of
      their gradients, is then the loss and the gradient of the batch.
    - `micro_batch`: those of one of `micro_batches` equal parts of the groups; the loss is the mean over parts that
      have a token.
    - `sequence`: those of one sequence; the loss is the mean over sequences (DeepSeek-V3 2024, section 2.1.2).

    Switch's loss (Fedus et al. 2021, equation 4 without its α) for k = 1; which other papers' and libraries' it is, and
    times what, stands in `moejax/README.md`, "Whose loss is it?".

    With experts that compute nothing it is Σ_e f_e · P_e / s_e, s_e the share that e is meant to get: 1 where all have
    theirs. That is the heterogeneous loss of MoE++ (Jin et al. 2024, equation 7) times (τ E + Z) / (τ k), for Z of E +
    Z experts that compute nothing; with null experts, whose f_e is the mean of theirs, AdaMoE's (Zeng et al. 2024)
    over k.

    Raises TypeError for all but a TopKRouting, since elsewhere tokens choose nothing, and ValueError for parts or
    sequences that are not there.
    """
    chosen: TopKRouting = only(TopKRouting, routing, "load_balance_loss", "usage_loss")
    if global_load is not None and over != "global_batch":
        raise ValueError(f"global_load is the load of a global batch, but over is {over}; leave one of them out.")
    if over == "sequence":
        return _balance_of_sequences(all_gathered(chosen))
    if over == "micro_batch":
        return _mean_balance_of_parts(_parts(all_gathered(chosen), micro_batches))
    counts = chosen.choices.sum((0, 1)) if global_load is None else global_load
    if jnp.shape(counts) != chosen.probs.shape[-1:]:
        raise ValueError(
            f"global_load has the shape {jnp.shape(counts)}; a number for each expert makes it"
            f" {chosen.probs.shape[-1:]}."
        )
    return _balance(chosen, _shares(counts), mean_over_tokens(chosen, chosen.probs))


def _balance(routing: TopKRouting, f: Float[Array, " e"], p: Float[Array, " e"]) -> Float[Array, ""]:
    if kinds := routing.zero_computation:
        return jnp.sum(null_alike(f, kinds) * p / jnp.array(meant_shares(routing.computing, kinds), p.dtype))
    return len(f) * jnp.sum(f * p)


def _shares(counts: Float[Array, "*n e"]) -> Float[Array, "*n e"]:
    return counts / jnp.maximum(counts.sum(-1, keepdims=True), 1e-9)


def _parts(routing: TopKRouting, parts: int) -> TopKRouting:
    """The groups in so many equal parts, along a new first axis."""
    if len(routing.probs) % parts:
        raise ValueError(f"micro_batches is {parts}, which does not divide the {len(routing.probs)} groups of tokens.")
    return jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), routing)


def _mean_balance_of_parts(parts: TopKRouting) -> Float[Array, ""]:
    losses = jax.vmap(load_balance_loss)(parts)  # 0 of nothing but padding
    with_tokens = len(losses) if parts.mask is None else parts.mask.any((1, 2)).sum(dtype=losses.dtype)
    return losses.sum() / jnp.maximum(with_tokens, 1)


def _balance_of_sequences(routing: TopKRouting) -> Float[Array, ""]:
    """The mean over all sequences that have a token."""
    if routing.starts is None:
        raise ValueError(
            "over is sequence, but nothing says where a sequence begins; give the routing that a SparseMoE returns, or"
            " routing._replace(starts=…), True at the first token of each."
        )
    g, t = routing.probs.shape[:2]
    number = jnp.cumsum(routing.starts.reshape(-1), dtype=jnp.int32)
    real = jnp.ones((g, t, 1), bool) if routing.mask is None else routing.mask[..., None]

    def totals(values: Float[Array, "g t n"]) -> Float[Array, "s n"]:
        flat = jnp.where(real, values, 0).reshape(g * t, -1)
        return jax.ops.segment_sum(flat, number, g * t + 1, indices_are_sorted=True)

    tokens = totals(jnp.ones((g, t, 1), routing.probs.dtype))
    f, p = _shares(totals(routing.choices)), totals(routing.probs) / jnp.maximum(tokens, 1)
    return jax.vmap(partial(_balance, routing))(f, p).sum() / jnp.maximum((tokens > 0).sum(dtype=p.dtype), 1)


def sparsity_loss(routing: Routing) -> Float[Array, ""]:
    """Σ_e a_e · R_e times the routing's `sparsity_weight`, 0 without: a_e is the share of tokens that chose expert e,
    R_e its mean weight.

    ReLU routing's L1 penalty (ReMoE, Wang et al. 2024, section 3): with λ · E / k as the weight, λ times its
    load-balancing L_reg, in which a busier expert costs more. The authors' code has that as Switch's loss with ReLU in
    place of softmax. The gradient flows through R_e alone. Raises TypeError for all but a TopKRouting: only there is a
    choice.
    """
    chosen: TopKRouting = only(TopKRouting, routing, "sparsity_loss", "entropy_loss")
    if chosen.sparsity_weight is None:
        return jnp.zeros(())
    asked = chosen._replace(slots=None).gates * chosen.sparsity_weight[:, None, None]
    return jnp.sum(mean_over_tokens(chosen, chosen.choices) * mean_over_tokens(chosen, asked))


def importance_loss(routing: Routing) -> Float[Array, ""]:
    """CV² over experts of the importance, the sum of each expert's gates (Shazeer et al. 2017, equations 6 and 7).

    The gates are the weights after the choice. V-MoE (Riquelme et al. 2021, appendix A.2) sums the probabilities before
    the choice instead: `squared_variation(routing.probs.sum((0, 1)))`.
    """
    only(Routing, routing, "importance_loss", "the routing that a layer returns")
    before_capacity = routing._replace(slots=None) if isinstance(routing, TopKRouting) else routing
    return squared_variation(before_capacity.gates.sum((0, 1)))


def load_loss(routing: Routing) -> Float[Array, ""]:
    """CV² over experts of the smooth load: each expert's selection probabilities, summed (Shazeer et al. 2017, A).

    Needs a router with noise; of a routing without (at evaluation) it is 0. V-MoE adds it to the importance loss, half
    each. Raises TypeError for all but a TopKRouting: only there is a choice.
    """
    chosen: TopKRouting = only(TopKRouting, routing, "load_loss", "importance_loss")
    if chosen.selection_probability is None:
        return jnp.zeros(())
    real = True if chosen.mask is None else chosen.mask[..., None]
    return squared_variation(jnp.where(real, chosen.selection_probability, 0).sum((0, 1)))


def router_z_loss(routing: Routing) -> Float[Array, ""]:
    """Mean over tokens of logsumexp(logits)²: keeps router logits small (ST-MoE, Zoph et al. 2022, equation 5).

    A token's logits are one for each expert, or in a soft routing one for each slot of all experts.
    """
    only(Routing, routing, "router_z_loss", "the routing that a layer returns")
    over = (2, 3) if isinstance(routing, SoftRouting) else 2
    return mean_over_tokens(routing, jax.nn.logsumexp(routing.logits, axis=over) ** 2)


def entropy_loss(routing: Routing) -> Float[Array, ""]:
    """Mean over tokens of the entropy of the router's distribution over experts, in nats; minimised, it decides."""
    return mean_over_tokens(routing, entropy(distribution(routing, "entropy_loss")))


def usage_loss(routing: Routing) -> Float[Array, ""]:
    """KL(mean distribution over experts ‖ uniform), in nats: 0 if all are used alike or none, ln E if one is alone.

    ln E minus the entropy of the mean: together with `entropy_loss` the mutual information of token and expert, with
    its sign turned (as in Mod-Squad, Chen et al. 2022, and V-MoE's follow-up LIMoE, Mustafa et al. 2022).
    """
    usage = mean_over_tokens(routing, distribution(routing, "usage_loss"))
    return usage.sum() * math.log(len(usage)) - entropy(usage)


def assignment_loss(routing: Routing, assigned: Int[Array, "g t"] | None = None) -> Float[Array, ""]:
    """Mean binary cross-entropy, over tokens and experts, of the probabilities and each token's assigned expert.

    Guided assignment: PyTorch's `binary_cross_entropy(probs, one_hot)`, logarithms not below -100 as there. `assigned`:
    None is what the layer was called with. Raises TypeError for a SoftRouting, whose slots are mixtures of tokens, and
    ValueError where nothing is assigned, or as `one_hot_of_assigned` does.
    """
    of_experts: LogitRouting = only(LogitRouting, routing, "assignment_loss", "a dense or sparse layer")
    if assigned is None:
        assigned = getattr(of_experts, "assigned", None)
    if assigned is None:
        raise ValueError("assigned is None, and the layer was called without; give each token's expert to either.")
    p = of_experts.probs
    target = one_hot_of_assigned(assigned, p, of_experts.mask)

    def log(p: Array) -> Array:
        # The inner choice keeps the gradient finite at 0.
        return jnp.where(p > 0, jnp.maximum(jnp.log(jnp.where(p > 0, p, 1)), -100.0), -100.0)

    return -mean_over_tokens(of_experts, (target * log(p) + (1 - target) * log(1 - p)).mean(-1))


def mean_square(parameters: PyTree[Array]) -> Float[Array, ""]:
    """Mean of the squares of all numbers in a module: an L2 penalty whose size does not grow with the module's.

    Raises ValueError if it has none.
    """
    leaves = jax.tree.leaves(parameters)
    if not sum(leaf.size for leaf in leaves):
        raise ValueError("mean_square got parameters without a single number; leave the penalty out.")
    return sum(jnp.sum(widened(leaf) ** 2) for leaf in leaves) / sum(leaf.size for leaf in leaves)


def only(kinds: Any, routing: Any, name: str, instead: str) -> Any:
    """The routing, of these kinds; raises TypeError for another, in the name of the function that is asked.

    So it does for a stack of routings, such as `nnx.scan` makes, whose layers would be mixed.
    """
    if not isinstance(routing, kinds):
        wanted = " or ".join(kind.__name__ for kind in getattr(kinds, "__args__", (kinds,)))
        raise TypeError(f"{name} is of a {wanted}, not of a {type(routing).__name__}; use {instead}.")
    if routing.logits.ndim > (4 if isinstance(routing, SoftRouting) else 3):
        raise TypeError(
            f"{name} is of one layer's routing, but the logits have the shape {routing.logits.shape}, of several; map"
            f" it over them, as in jax.vmap({name})(routing)."
        )
    return routing


def distribution(routing: Any, name: str) -> Float[Array, "g t e"]:
    """Each token's distribution over experts, in the name of the function that is asked."""
    only(Routing, routing, name, "the routing that a layer returns")
    return routing.gates if isinstance(routing, SoftRouting) else routing.probs


def entropy(probs: Float[Array, "*n e"]) -> Float[Array, "*n"]:
    """Entropy in nats, with a finite gradient where a probability is 0."""
    return -(probs * jnp.log(jnp.maximum(probs, jnp.finfo(probs.dtype).tiny))).sum(-1)


def squared_variation(values: Float[Array, " e"]) -> Float[Array, ""]:
    """CV²: variance over squared mean, of a population, as in V-MoE's and Mesh-TensorFlow's code."""
    return values.var() / (values.mean() ** 2 + 1e-10)


def mean_over_tokens(routing: Routing, values: Float[Array, "g t *rest"]) -> Float[Array, "*rest"]:
    """Mean over all tokens that are not padding; zeros if there are none."""
    if routing.mask is None:
        return values.sum((0, 1)) if 0 in values.shape[:2] else values.mean((0, 1))
    real = routing.mask.reshape(*routing.mask.shape, *[1] * (values.ndim - 2))
    return jnp.where(real, values, 0).sum((0, 1)) / jnp.maximum(routing.mask.sum(dtype=values.dtype), 1)
