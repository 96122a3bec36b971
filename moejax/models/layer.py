"""From a configuration to the constructor of the layer that it names."""

from collections.abc import Callable
from typing import Annotated, Any

from flax import nnx
from jaxtyping import DTypeLike
from pydantic import Field

from moejax.experts import GLU, MLP
from moejax.layers import LAYERS
from moejax.losses import auxiliary_loss
from moejax.makers import MakeExpert
from moejax.options import Choice, Count, Needs, NotNegative, Options, Width, model_of, options_of
from moejax.routers import ROUTERS

# The experts by name; a new one is a file and a line here. Each is made by `expert(d, hidden, dtype=…, rngs=…)`.
EXPERTS: dict[str, type[nnx.Module]] = {"mlp": MLP, "glu": GLU}

MakeLayer = Callable[[nnx.Rngs], nnx.Module]


class _LayerOptions(Options):
    layer: Annotated[str, Choice(LAYERS)] = "soft"
    """All experts on all tokens, those that a router chooses, mixtures of tokens in slots, or a gate for each task."""
    num_experts: Count = 8
    """Experts per layer (E)."""
    hidden: Width = 64
    """Hidden width of each expert (h)."""
    l2_weight: NotNegative = 0.0
    """Weight of the mean square of the experts' parameters."""


_LOSSES = options_of(auxiliary_loss)
# The options of `auxiliary_loss` by their names in a configuration: there a weight says that it is one.
LOSS_OPTIONS = {f"{name}_weight" if f.annotation is float else name: name for name, f in _LOSSES.items()}
# Options of a model's Mixture-of-Experts layers, beside those that the layers themselves declare.
LayerOptions: Any = model_of(
    "LayerOptions", {option: _LOSSES[name] for option, name in LOSS_OPTIONS.items()}, _LayerOptions
)


class ExpertOptions(LayerOptions):
    """… of a model whose experts are any of these."""

    expert: Annotated[str, Choice(EXPERTS)] = "mlp"
    """What an expert is."""


class SharedExpertOptions(ExpertOptions):
    """… of a model whose sparse layers may have a shared expert."""

    shared: Annotated[int, Field(ge=0, le=2**20), Needs("layer", ("sparse",))] = 0
    """Hidden width of an expert that every token goes to, beside its k; 0 for none."""


def layer_maker(
    moe: Options,
    d: int,
    dtype: DTypeLike,
    make_expert: MakeExpert | None = None,
    make_gate: MakeExpert | None = None,
    num_tasks: int = 1,
) -> MakeLayer:
    """The constructor of the layer that `moe.layer` names, for tokens [g, t, d].

    `make_expert` is for models with their own experts; None: `moe.expert` names them. `make_gate` is for a dense layer
    whose router is a network, `num_tasks` for one with a gate a task.
    """

    def of_width(hidden: int) -> MakeExpert:
        expert = EXPERTS[moe.expert]
        return lambda rngs: expert(d, hidden, dtype=dtype, rngs=rngs, **values(moe, expert))

    kind = LAYERS[moe.layer]
    options = values(moe, kind)
    if moe.layer == "dense":
        options["make_gate"] = make_gate
    if moe.layer == "multi_gate":
        options["num_tasks"] = num_tasks
    if moe.layer == "sparse":
        options |= values(moe, ROUTERS[moe.router])
        options["make_shared"] = of_width(moe.shared) if getattr(moe, "shared", 0) else None
    return lambda rngs: kind(d, moe.num_experts, make_expert or of_width(moe.hidden), rngs=rngs, **options)


def values(options: Options, call: Callable) -> dict[str, Any]:
    """Arguments for a class or function: the values of the options that it declares."""
    return {name: getattr(options, name) for name in options_of(call) if hasattr(options, name)}
