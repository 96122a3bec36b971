"""Routers that learn nothing: baselines."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax import routing
from moejax.routers.router import Router


class Unlearnt(Router):
    """A router that does not look at the tokens."""

    evens_load = True
    weights_sum_to_1 = True
    jitter: ClassVar[float] = 0.0  # no option: there is no input

    def build(self, d, kernel_init, rngs):
        """It has no parameters."""


class Hash(Unlearnt):
    """A fixed random table of the token's position or id (Hash layers)."""

    def choose(self, x, context):
        g, t, _ = x.shape
        ids = jnp.broadcast_to(jnp.arange(t), (g, t)) if context.ids is None else context.ids
        return routing.hash_routing(ids, self.num_experts, self.k, given=context.given)


class Random(Unlearnt):
    """k random experts, new in every training step and fixed at evaluation: the baseline."""

    noisy = True

    def choose(self, x, context):
        key = jax.random.key(0) if context.key is None else context.key
        return routing.random_routing(key, *x.shape[:2], self.num_experts, self.k, given=context.given)
