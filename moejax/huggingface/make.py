"""The layer that a configuration describes."""

import math
from typing import Any

from flax import nnx

from moejax.huggingface.families import Entries, glu
from moejax.huggingface.parts import SlotsMoE, single_choice
from moejax.layers import SparseMoE
from moejax.options import options_of
from moejax.routers import Router
from moejax.routers.top_k import Switch


def make_layer(read: Entries, layer_options: dict[str, Any]) -> SparseMoE:
    """The layer, with `layer_options` of its own."""
    family = read.family
    d, num_experts = read("hidden_size", "d_model"), read("num_local_experts", "num_experts", "n_routed_experts")
    k = 1 if family.router is Switch else read("num_experts_per_tok")
    options = {"dispatch": "grouped", "capacity_factor": None, "eval_capacity_factor": None} | layer_options
    if family.shared_width:
        width = math.prod(read(name) for name in family.shared_width)
        options |= {"make_shared": glu(read, d, width), "shared_gate": "shared_gate.kernel" in family.names}
    make = SparseMoE
    if family.router is Switch and not {"capacity_factor", "eval_capacity_factor"} & layer_options.keys():
        make, options = SlotsMoE, options | {"slots": read("expert_capacity")}
    router, make_expert = make_router(read, d, num_experts, k), family.make_expert(read, d, read(family.hidden))
    return make(d, num_experts, make_expert, router=router, rngs=nnx.Rngs(0), **options)


def make_router(read: Entries, d: int, num_experts: int, k: int) -> Router:
    """Its router."""
    kind, options = read.family.router, dict(read.family.options)
    if read.entries.get("topk_method") == "greedy":  # DeepSeek-V2: whatever the groups are
        options |= {"num_expert_groups": 1, "topk_group": 1}
    options = {name: read(value) if isinstance(value, str) else value for name, value in options.items()}
    declared = options_of(kind)
    if k == 1 and options["renormalize"]:
        kind = single_choice(kind)
    own = {name: value for name, value in options.items() if name in declared}
    return kind(d, num_experts, k, rngs=nnx.Rngs(0), **own)
