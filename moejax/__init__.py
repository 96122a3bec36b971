"""Mixture-of-Experts for JAX/Flax.

    import moejax
    layer = moejax.SoftMoE(d, num_experts, make_expert, slots=4, rngs=rngs)
    y, routing = layer(x)

Names are imported when first used, so that `import moejax` costs nothing and the command line answers at once.
"""

import importlib
from typing import Any

_HOME = {
    "routing": (
        *("DenseRouting", "TopKRouting", "ExpertChoiceRouting", "SoftRouting", "Routing", "SparseRouting"),
        *("softmax_top_k", "top_k_softmax", "switch", "limit_to_groups"),
        *("noisy_top_k", "vmoe_top_k", "jitter", "chance_of_choice"),
        *("sigmoid_top_k", "update_bias", "sinkhorn", "sinkhorn_top_k", "expert_choice"),
        *("hash_routing", "random_routing", "dense_routing", "anneal", "soft_routing"),
        *("assigned_experts", "guided_weights"),
        *("assign", "expert_capacity", "mask_tokens"),
    ),
    "dispatch": (
        *("einsum_dispatch", "gather_dispatch", "grouped_dispatch", "default_group_size"),
        *("sparse_masks", "dispatch_tokens", "combine_slots", "combine_dense"),
        *("grouped_matmul", "grouped_outer"),
    ),
    "losses": (
        *("auxiliary_loss", "load_balance_loss", "importance_loss", "load_loss", "router_z_loss"),
        *("entropy_loss", "usage_loss", "assignment_loss", "mean_square"),
    ),
    "metrics": (
        *("load", "relative_load", "max_violation", "dead_experts", "diversity", "dropped"),
        *("gate_entropy", "confidence", "label_counts", "dispatch_entropy", "label_information"),
    ),
    "experts": ("MLP", "GLU", "stack_experts", "apply_experts", "apply_experts_to_all", "apply_experts_to_groups"),
    "routers": ("ROUTERS", "Router", "RouterOptions", "DenseRouter", "SoftRouter"),
    "layers": ("DenseMoE", "SparseMoE", "SoftMoE", "into_groups", "ungroup"),
    "router_updates": ("update_routers",),
    "huggingface": ("from_huggingface", "to_huggingface"),
    "upcycling": ("upcycle", "upcycle_moments", "upcycle_state"),
    "sharding": ("MeshAxes",),
    "errors": ("UserError",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'moejax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"moejax.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
