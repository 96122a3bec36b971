"""A router that scores each expert by itself and balances by a bias, without a loss."""

import jax
import jax.numpy as jnp

from moejax import routing
from moejax.options import NotNegative
from moejax.routers.router import RouterState
from moejax.routers.top_k import GroupLimited
from moejax.routing.sigmoid import ScoreFunction


class SigmoidTopK(GroupLimited):
    """Each expert scored by itself, a bias keeps the load even (DeepSeek-V3).

    Args:
      score_function: a logit's score: its sigmoid (DeepSeek-V3), or the root of its softplus (DeepSeek-V4).
      bias_update_rate: how far each step moves an expert's bias towards an even load.
      center_bias: keep the biases' mean at 0 (Moonlight, torchtitan), which changes no choice, or let it drift
        (DeepSeek-V3, Megatron).
    """

    evens_load = True
    score_function: ScoreFunction = "sigmoid"
    bias_update_rate: NotNegative = 1e-3
    center_bias: bool = False

    @property
    def weights_sum_to_1(self) -> bool:
        return self.renormalize and self.k > 1 and self.routed_scaling_factor == 1

    def build(self, d, kernel_init, rngs):
        super().build(d, kernel_init, rngs)
        self.bias = RouterState(jnp.zeros(self.num_experts))

    def choose(self, x, context):
        return routing.sigmoid_top_k(
            self.logits(x, context),
            self.k,
            bias=jax.lax.stop_gradient(self.bias[...]),
            score_function=self.score_function,
            renormalize=self.renormalize,
            scale=self.routed_scaling_factor,
            num_expert_groups=self.num_expert_groups,
            topk_group=self.topk_group,
            given=context.given,
        )

    def after_step(self, load, progress):
        """Move the bias against the step's load."""
        self.bias[...] = routing.update_bias(self.bias[...], load, self.bias_update_rate, center=self.center_bias)
