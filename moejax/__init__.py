"""Mixture-of-Experts for JAX/Flax.

    import moejax
    layer = moejax.SoftMoE(d, num_experts, make_expert, slots=4, rngs=rngs)
    y, routing = layer(x)

Here is what one types; the functions behind it are in `moejax.routing`, `moejax.dispatch` and `moejax.metrics`.

All is imported when first used, so that `import moejax` costs nothing and the command line answers at once. Editors
read the names in `__init__.pyi`; a test compares.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

MODULES = ("dispatch", "losses", "metrics", "routing", "runs")
_HOME = {
    "layers": ("DenseMoE", "SparseMoE", "SoftMoE"),
    "inputs": ("ungroup",),
    "multi_gate": ("MultiGateMoE",),
    "routers": ("ROUTERS", "Router", "DenseRouter", "SoftRouter"),
    "experts": ("MLP", "GLU", "stack_experts", "apply_experts", "apply_experts_to_all", "apply_experts_to_groups"),
    "losses": (
        *("auxiliary_loss", "load_balance_loss", "importance_loss", "load_loss", "router_z_loss"),
        *("entropy_loss", "usage_loss", "assignment_loss", "sparsity_loss"),
    ),
    "router_updates": ("update_routers",),
    "parameters": ("decays",),
    "quantization": ("quantize",),
    "dispatch": ("einsum_dispatch", "gather_dispatch", "grouped_dispatch", "default_group_size"),
    "kernels.groups": ("Groups",),
    "sharding": ("MeshAxes",),
    "huggingface": ("from_huggingface", "to_huggingface"),
    "huggingface.decoder": ("decoder_from_huggingface", "decoder_to_huggingface"),
    "upcycling": ("upcycle", "upcycle_moments", "upcycle_state"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted((*_MODULE_OF, *MODULES))


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return importlib.import_module(f"moejax.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'moejax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"moejax.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
