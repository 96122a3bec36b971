"""Routers that add noise to the logits in training."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from moejax import routing
from moejax.routers.router import Router, linear
from moejax.widening import widened

# The noise alone decides at the start, and all experts get their share.
_zeros = staticmethod(nnx.initializers.zeros)


class NoisyTopK(Router):
    """Normal noise of learnt spread, the k best, a softmax of those (Shazeer et al. 2017)."""

    noisy = True
    weights_sum_to_1 = True
    initializer = _zeros  # as in the paper

    @staticmethod
    def contradictions(o: Any) -> Iterator[str]:
        yield from Router.contradictions(o)
        if o.k == 1:
            yield "`k` is 1, which gives the router noisy_top_k no gradient: the only weight is 1; use vmoe."

    def build(self, d, kernel_init, rngs):
        super().build(d, kernel_init, rngs)
        self.spread = nnx.Param(jnp.zeros((d, self.num_experts)))

    def choose(self, x, context):
        spread = linear(widened(x), self.spread)
        return routing.noisy_top_k(self.logits(x, context), spread, self.k, context.key, given=context.given)


class VmoeTopK(Router):
    """Normal noise of deviation 1/E, softmax, the k best (V-MoE)."""

    noisy = True

    def choose(self, x, context):
        return routing.vmoe_top_k(self.logits(x, context), self.k, context.key, given=context.given)


class UniformTopK(Router):
    """Uniform noise from 0 to 1, the k best, weighted by probability or by the logit (Chen et al. 2022).

    Args:
      raw_weights: weigh by the noisy logit itself, not by the probability.
      eval_noise: noise at evaluation too, drawn once for all.
    """

    noisy = True
    initializer = _zeros
    raw_weights: bool = False
    eval_noise: bool = False

    @property
    def weights_sum_to_1(self) -> bool:
        return self.k == self.num_experts and not self.raw_weights

    def choose(self, x, context):
        key = context.key
        if key is None and self.eval_noise:
            key = jax.random.key(0)
        return routing.uniform_top_k(self.logits(x, context), self.k, key, raw=self.raw_weights, given=context.given)
