"""A layer for several tasks: one set of experts, and a gate for each task (MMoE).

Ma et al. 2018 ("Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", equations 6
and 7): with f_e the experts and g_task the softmax of a linear map of the token,

    y_task = Σ_e g_task(x)_e · f_e(x)

The experts, which are nearly all of the work, see each token once, however many tasks there are. With one task this is
`DenseMoE`. One gate for all tasks (OMoE in the paper) is a `DenseMoE` as well, whose output every task gets.

Axis letters as in `moejax.layers`.
"""

from typing import Annotated

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key
from pydantic import Field

from moejax.dispatch import combine_dense
from moejax.experts import apply_experts_to_all, stack_experts
from moejax.inputs import AnyArray, ComputeDtype, prepare
from moejax.linear_maps import cast
from moejax.makers import MakeExpert
from moejax.options import Count, Positive, PositiveOrNone, Width, checked
from moejax.randomness import draw_key, key_for
from moejax.routers import DenseRouter
from moejax.routing import DenseRouting
from moejax.sharding import DEFAULT_AXES, MeshAxes, over_mesh


class MultiGateMoE(nnx.Module):
    """All experts see all tokens; for each task a gate of its own weighs their outputs (Ma et al. 2018).

    Args:
      num_tasks: tasks, each with a gate and an output of its own.
      temperature: each gate's logits are divided by this.
      learn_temperature: learn the temperature of each gate, from `temperature` on.
      final_temperature: anneal the temperature to this by the end of training; none keeps it.

    Raises ValueError, in one sentence, for arguments that make no sense.
    """

    @checked
    def __init__(
        self,
        d: Width,
        num_experts: Count,
        make_expert: MakeExpert,
        *,
        num_tasks: Annotated[int, Field(ge=1, le=2**10)],
        temperature: Positive = 1.0,
        learn_temperature: bool = False,
        final_temperature: PositiveOrNone = None,
        dtype: ComputeDtype = None,
        mesh_axes: MeshAxes = DEFAULT_AXES,
        rngs: nnx.Rngs,
    ):
        def gate() -> DenseRouter:
            return DenseRouter(
                d,
                num_experts,
                temperature=temperature,
                learn_temperature=learn_temperature,
                final_temperature=final_temperature,
                rngs=rngs,
            )

        self.routers = nnx.List([gate() for _ in range(num_tasks)])
        self.experts, self.d = stack_experts(make_expert, num_experts, rngs, mesh_axes), d
        self.mesh_axes, self.dtype = mesh_axes, dtype

    contradictions = staticmethod(DenseRouter.contradictions)

    @draw_key
    @over_mesh
    def __call__(
        self,
        x: Float[AnyArray, "*batch t d"],
        *,
        train: bool = False,
        key: Key[Array, ""] | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,  # gives `key`: see draw_key
        mask: Bool[AnyArray, "*#batch #t"] | None = None,
        router_input: Float[AnyArray, "*#batch #t r"] | None = None,
    ) -> tuple[Float[Array, "tasks *batch t d2"], tuple[DenseRouting, ...]]:
        """Apply the layer; `router_input`: the gates' input, d numbers a token; None: the tokens themselves.

        Returns the outputs, tasks first, and a routing for each task. Losses and metrics take each as any other
        routing, `auxiliary_loss` and `update_routers` take them all.
        """
        inputs, restore = prepare(x, self.d, dtype=self.dtype, mask=mask, router_input=router_input)
        routings = tuple(router(inputs.router_x, inputs.mask) for router in self.routers)
        y = apply_experts_to_all(
            cast(self.experts, self.dtype),
            inputs.x,
            key_for(self.experts, key, train),
            num_experts=self.routers[0].num_experts,
        )
        return jnp.stack([restore(combine_dense(routing.gates, y)) for routing in routings]), routings
