"""The layer that a configuration describes."""

import math
from typing import Any

from flax import nnx

from moejax.huggingface.families import Entries, glu
from moejax.huggingface.parts import SlotsMoE, single_choice
from moejax.layers import SparseMoE
from moejax.routers.top_k import Switch, TopKSoftmax


def make_layer(read: Entries, layer_options: dict[str, Any]) -> SparseMoE:
    """The layer, with `layer_options` of its own; ValueError for those that the configuration says."""
    family = read.family
    d, num_experts = read("hidden_size", "d_model"), read("num_local_experts", "num_experts", "n_routed_experts")
    k = 1 if family.router is Switch else read("num_experts_per_tok")
    options = {"dispatch": "grouped", "capacity_factor": None, "eval_capacity_factor": None, "group_size": 0}
    options |= layer_options
    router = router_of(read, k)
    of_layer = {"d", "num_experts", "make_expert", "k", "make_shared", "shared_gate", "rngs"}
    if said := sorted((of_layer | router.keys()) & layer_options.keys()):
        raise ValueError(f"{', '.join(said)}: the configuration says that; leave it out of the layer's options.")
    if family.shared_width:
        width = math.prod(read(name) for name in family.shared_width)
        options |= {"make_shared": glu(read, d, width), "shared_gate": "shared_gate.kernel" in family.names}
    make = SparseMoE
    if family.router is Switch and not {"capacity_factor", "eval_capacity_factor"} & layer_options.keys():
        make, options = SlotsMoE, options | {"slots": read("expert_capacity")}
    make_expert = family.make_expert(read, d, read(family.hidden))
    return make(d, num_experts, make_expert, k=k, rngs=nnx.Rngs(0), **router, **options)


def router_of(read: Entries, k: int) -> dict[str, Any]:
    """Its router and that one's options, as `SparseMoE` takes them."""
    router, options = read.family.router, dict(read.family.options)
    methods = read.family.only.get("topk_method", ())
    if "greedy" in methods and read("topk_method", default="greedy") == "greedy":  # whatever the groups are
        options |= {"num_expert_groups": 1, "topk_group": 1}
    options = {name: read(value) if isinstance(value, str) else value for name, value in options.items()}
    if k == 1 and options.get("renormalize", issubclass(router, TopKSoftmax)):
        router = single_choice(router)
    return {"router": router} | options
