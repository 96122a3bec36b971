"""What Hugging Face's blocks have beside our own layers: routers, an expert and a capacity that no other model uses."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from moejax.experts import GLU, Linear, apply_linear
from moejax.layers import SparseMoE
from moejax.routers import Router
from moejax.routers.top_k import TopKSoftmax


class BiasedTopKSoftmax(TopKSoftmax):
    """`top_k_softmax` with a learnt bias on the logits (gpt-oss)."""

    def build(self, d, kernel_init, rngs):
        super().build(d, kernel_init, rngs)
        self.logits_bias = nnx.Param(jnp.zeros(self.num_experts))

    def logits(self, x, context):
        logits = super().logits(x, context)
        return logits + self.logits_bias[...].astype(logits.dtype)[None, None]


@cache
def single_choice(router: type[Router]) -> type[Router]:
    """The router for k = 1 with its weight renormalised, which makes it constant: 1, or the factor on the weights.

    Our own routers keep the probability, since a constant gives them no gradient.
    """

    def choose(self, x, context):
        chosen = router.choose(self, x, context)
        factor = getattr(self, "routed_scaling_factor", 1.0)
        return chosen._replace(weights=jax.nn.softmax(chosen.weights, axis=-1) * factor)

    own = {"choose": choose, "contradictions": staticmethod(Router.contradictions)}
    return type(f"Single{router.__name__}", (router,), own)


class ClampedGLU(GLU):
    """gpt-oss's expert: gate and up, which alternate in `gate_up`, are clamped; up is raised by 1."""

    def __init__(self, d: int, h: int, *, alpha: float, limit: float, rngs: nnx.Rngs):
        super().__init__(d, h, use_bias=True, rngs=rngs)
        self.alpha, self.limit = alpha, limit

    def __call__(self, x: Float[Array, "*batch d"], linear: Linear = apply_linear) -> Float[Array, "*batch d"]:
        y = linear(self.gate_up, x)
        gate, up = jnp.minimum(y[..., ::2], self.limit), jnp.clip(y[..., 1::2], -self.limit, self.limit)
        return linear(self.down, gate * jax.nn.sigmoid(self.alpha * gate) * (up + 1))


class SlotsMoE(SparseMoE):
    """A layer whose experts have `slots` slots in every group, however long, under every dispatch (Switch)."""

    def __init__(self, *args: Any, slots: int, **options: Any):
        super().__init__(*args, **options)
        self.slots = slots

    def capacity(self, tokens: int, train: bool = False) -> int:
        """The number of slots; more than `tokens` would stay empty."""
        return min(tokens, self.slots)
