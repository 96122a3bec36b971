"""The layer of a model, by name: from a configuration to a constructor."""

from collections.abc import Callable

from flax import nnx
from jaxtyping import DTypeLike

from moejax.config import MoeConfig
from moejax.dispatch import default_group_size
from moejax.experts import GLU, MLP
from moejax.layers import DenseMoE, MakeExpert, SoftMoE, SparseMoE
from moejax.options import options_of
from moejax.routers import ROUTERS

MakeLayer = Callable[[nnx.Rngs], nnx.Module]


def layer_maker(
    moe: MoeConfig,
    d: int,
    dtype: DTypeLike,
    make_expert: MakeExpert | None = None,
    make_gate: MakeExpert | None = None,
) -> MakeLayer:
    """The constructor of the layer that `moe.layer` names, for tokens [g, t, d].

    `make_expert` is for models with experts of their own; without it they are what `moe.expert` names. `make_gate` is
    for a dense layer whose router is a network.
    """
    expert = {"mlp": MLP, "glu": GLU}.get(moe.expert)  # the others are of a model that makes them itself

    def make_named(rngs: nnx.Rngs) -> nnx.Module:
        return expert(d, moe.hidden, dtype=dtype, rngs=rngs)

    def make_shared(rngs: nnx.Rngs) -> nnx.Module:
        return expert(d, moe.shared, dtype=dtype, rngs=rngs)

    make_expert = make_expert or make_named
    layers: dict[str, MakeLayer] = {
        "dense": lambda rngs: DenseMoE(
            d,
            moe.num_experts,
            make_expert,
            temperature=moe.temperature,
            learn_temperature=moe.learn_temperature,
            final_temperature=moe.final_temperature,
            make_gate=make_gate,
            rngs=rngs,
        ),
        "sparse": lambda rngs: SparseMoE(
            d,
            moe.num_experts,
            make_expert,
            k=moe.k,
            router=moe.router,
            **{n: getattr(moe, n) for n in options_of(ROUTERS[moe.router]) if n not in ("d", "num_experts", "k")},
            dispatch=moe.dispatch,
            capacity_factor=moe.capacity_factor,
            eval_capacity_factor=moe.eval_capacity_factor,
            group_size=moe.group_size or default_group_size(moe.hidden),
            make_shared=make_shared if moe.shared else None,
            rngs=rngs,
        ),
        "soft": lambda rngs: SoftMoE(d, moe.num_experts, make_expert, slots=moe.slots, scale=moe.scale, rngs=rngs),
    }
    return layers[moe.layer]
