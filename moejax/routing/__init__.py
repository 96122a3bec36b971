"""Routing: a router's logits in, one small pytree out.

A routing says, for each token, which experts it goes to and with what weights their outputs are summed. Dispatch,
losses, metrics and pictures all take it as it is; none of them computes it again.

    decision        the four kinds: DenseRouting, TopKRouting, ExpertChoiceRouting, SoftRouting
    mixtures        every expert, or every slot a mixture of tokens
    top_k           each token's k best experts ...
    capacity        ... and its slot in each, as long as one is free
    position        queue position: how many earlier choices picked the same expert
    noise           top-k with noise: Shazeer's, V-MoE's, uniform, jitter
    sigmoid         DeepSeek-V3 and -V4: a bias instead of a balance loss
    sinkhorn        BASE: a balanced plan
    expert_choice   each expert's best tokens
    relu            every expert whose logit is above 0: any number
    unlearnt        hash and random, to compare with
    replay          experts that are given, weighed as if chosen
    zero_computation  experts that cost nothing: zero, copy, constant, null
    guidance        the expert that each label is assigned to

Axis letters: g groups, t tokens of a group, e experts, k choices of a token, c slots of an expert (its capacity).
Pure functions of float32 logits; no Flax, no state. Start with `top_k` and `capacity`.
"""

from moejax.routing.capacity import assign, expert_capacity
from moejax.routing.decision import (
    DenseRouting,
    ExpertChoiceRouting,
    Routing,
    SoftRouting,
    SparseRouting,
    TopKRouting,
    ZeroComputation,
    mask_tokens,
)
from moejax.routing.expert_choice import expert_choice
from moejax.routing.guidance import assigned_experts, guided_weights, one_hot_of_assigned
from moejax.routing.mixtures import anneal, dense_routing, soft_routing
from moejax.routing.noise import jitter, noisy_top_k, selection_probability, uniform_top_k, vmoe_top_k
from moejax.routing.position import position_in_expert
from moejax.routing.relu import relu_routing, update_coefficient
from moejax.routing.replay import refuse_impossible
from moejax.routing.sigmoid import sigmoid_top_k, update_bias
from moejax.routing.sinkhorn import sinkhorn, sinkhorn_top_k
from moejax.routing.top_k import limit_to_groups, softmax_top_k, switch, top_k_softmax
from moejax.routing.unlearnt import hash_routing, random_routing
from moejax.routing.zero_computation import computing_part, meant_shares, null_alike, with_zero_computation

__all__ = [
    "DenseRouting",
    "ExpertChoiceRouting",
    "Routing",
    "SoftRouting",
    "SparseRouting",
    "TopKRouting",
    "ZeroComputation",
    "anneal",
    "assign",
    "assigned_experts",
    "computing_part",
    "dense_routing",
    "expert_capacity",
    "expert_choice",
    "guided_weights",
    "hash_routing",
    "jitter",
    "limit_to_groups",
    "mask_tokens",
    "meant_shares",
    "noisy_top_k",
    "null_alike",
    "one_hot_of_assigned",
    "position_in_expert",
    "random_routing",
    "refuse_impossible",
    "relu_routing",
    "selection_probability",
    "sigmoid_top_k",
    "sinkhorn",
    "sinkhorn_top_k",
    "soft_routing",
    "softmax_top_k",
    "switch",
    "top_k_softmax",
    "uniform_top_k",
    "update_bias",
    "update_coefficient",
    "vmoe_top_k",
    "with_zero_computation",
]
