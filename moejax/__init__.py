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
        *("DenseRouting", "TopKRouting", "SoftRouting", "Routing"),
        *("dense_routing", "top_k_routing", "soft_routing", "assign", "expert_capacity"),
    ),
    "dispatch": ("sparse_masks", "dispatch_tokens", "combine_slots", "combine_dense"),
    "losses": ("load_balance_loss", "router_z_loss"),
    "metrics": ("load", "dropped", "gate_entropy"),
    "experts": ("MLP", "stack_experts", "apply_experts", "apply_experts_to_all"),
    "layers": ("DenseMoE", "SparseMoE", "SoftMoE"),
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
