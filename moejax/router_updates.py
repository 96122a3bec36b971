"""What routers change by themselves after a training step: balancing biases, L1 coefficients, annealed temperatures."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from moejax.metrics import experts_per_token, load, real_tokens
from moejax.routing import Routing


def update_routers(
    model: nnx.Module | Sequence[nnx.Module],
    routings: Routing | Iterable[Routing | Float[Array, " e"]],
    *,
    progress: Float[Array, ""] | float,
) -> None:
    """Let each MoE layer's router change itself, given what it chose in this step. Changes the model in place.

    Call it once a training step, after the optimiser's update. Under `nnx.jit` the caller's model changes; under
    `jax.jit` return the model from the step, as for any change of it.

    Args:
      model: its MoE layers are all modules with a `router` (or `routers`, one a task), in the order of their numbers in
        lists or names; or those layers themselves, in a sequence.
      routings: each layer's routing, in that order; or, where these are known already, its load times its experts per
        token [e] (`moejax.metrics`), which sums to the experts per token. Of a layer for several tasks, each task's.
      progress: the share of the training that is done, 0 to 1, for what is annealed.

    Raises ValueError, in one sentence, if there is not one routing a layer, or if the layers' order cannot be told.
    """
    layers: list[Any] = moe_layers(model) if isinstance(model, nnx.Module) else list(model)
    routers = [router for layer in layers for router in routers_of(layer)]
    of_routers = [routings] if isinstance(routings, Routing) else list(routings)
    if len(routers) != len(of_routers):
        raise ValueError(
            f"update_routers got {len(of_routers)} routings for {len(layers)} MoE layers; give one a layer, and of a"
            " layer for several tasks one a task."
        )
    of_each = zip(routers, of_routers, strict=True)
    loads = [_asked(router, of) if isinstance(of, Routing) else of for router, of in of_each]
    if any(jnp.ndim(share) != 1 for share in loads):
        shapes = ", ".join(str(jnp.shape(share)) for share in loads)
        raise ValueError(f"update_routers got loads of the shapes {shapes}; a layer's is [e], under vmap for a stack.")
    for router, share in zip(routers, loads, strict=True):
        router.after_step(share, progress)


def _asked(router: Any, routing: Routing) -> Float[Array, "*n e"]:
    """How often a token chose each expert; of a batch without a token an even share, which changes nothing."""
    chosen = load(routing) * experts_per_token(routing)
    return jnp.where(real_tokens(routing) > 0, chosen, getattr(router, "k", 1) / len(chosen))


def routers_of(layer: Any) -> list[Any]:
    """A layer's router, or those of its tasks; none of another module."""
    own = getattr(layer, "routers", None) or [getattr(layer, "router", None)]
    return [router for router in own if hasattr(router, "after_step")]


def moe_layers(model: nnx.Module) -> list[Any]:
    """All modules in it that have a router or several, in the order of the numbers in their paths.

    Raises ValueError if paths differ in more than numbers: which of `encoder.moe` and `decoder.moe` comes first?
    """
    found = {".".join(map(str, path)): module for path, module in nnx.iter_modules(model) if routers_of(module)}
    if len({re.sub(r"\d+", "", path) for path in found}) > 1:
        raise ValueError(
            f"the MoE layers {', '.join(found)} have no order; give update_routers the layers themselves, in a list, in"
            " the order of their routings."
        )
    return [found[path] for path in sorted(found, key=lambda path: [int(n) for n in re.findall(r"\d+", path)])]
