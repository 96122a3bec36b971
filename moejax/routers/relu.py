"""A router whose tokens have any number of experts, and that keeps their mean."""

from typing import Annotated

import jax
import jax.numpy as jnp
from pydantic import Field

from moejax import routing
from moejax.routers.router import Router, RouterState
from moejax.routing.relu import LEAST, MOST


class ReLU(Router):
    """Each expert whose logit is above 0, weighted by it: k on average, by an adaptive L1 penalty (ReMoE).

    Args:
      l1_reg_coeff_init: where the coefficient of the L1 penalty begins.
      l1_reg_coeff_multiplier: factor on that coefficient after a step with more than k experts a token; one with fewer
        divides.

    At first a token has half of the experts, and the penalty makes them fewer: a task that asks for fewer than k gets
    that. The penalty balances too: `balance` and `z` of `auxiliary_loss` are 0 in the paper. Slots are for k experts a
    token; until the penalty has settled, after some hundred steps, the lowest weights find none. The paper drops
    nothing, as dispatch `grouped`, whose products are those of the chosen experts and whose memory is that of all.

    The paper has one coefficient for all layers and their mean; here each layer comes to k by its own.
    """

    l1_reg_coeff_init: Annotated[float, Field(ge=LEAST, le=MOST)] = 1e-8
    l1_reg_coeff_multiplier: Annotated[float, Field(ge=1, le=100)] = 1.2

    weights_sum_to_1 = False
    aims_at_k = True

    @property
    def most_experts(self):
        return self.num_experts

    def build(self, d, kernel_init, rngs):
        super().build(d, kernel_init, rngs)
        self.l1_reg_coeff = RouterState(jnp.float32(self.l1_reg_coeff_init))

    def choose(self, x, context):
        weight = jax.lax.stop_gradient(self.l1_reg_coeff[...]) * (self.num_experts / self.k)
        return routing.relu_routing(self.logits(x, context), weight, given=context.given)

    def after_step(self, load, progress):
        """Move the coefficient by how many experts a token had."""
        self.l1_reg_coeff[...] = routing.update_coefficient(
            self.l1_reg_coeff[...], load.sum(), self.k, self.l1_reg_coeff_multiplier
        )
