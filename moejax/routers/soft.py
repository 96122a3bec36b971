"""The router of a soft layer."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from moejax import routing
from moejax.options import Count, Positive, Width, checked
from moejax.randomness import require_rngs
from moejax.routers.router import Initializer
from moejax.routing import SoftRouting
from moejax.widening import widened

_lecun = nnx.initializers.lecun_normal()


class SoftRouter(nnx.Module):
    """Slots by two softmaxes (Puigcerver et al. 2023, algorithm 2): tokens and slot parameters of unit length, with one
    learnt scale. It begins at `scale`: 1 leaves both softmaxes nearly even until it has grown.
    """

    @checked
    def __init__(
        self,
        d: Width,
        num_experts: Count,
        slots: Count,
        *,
        scale: Positive = 1.0,
        kernel_init: Initializer = _lecun,
        rngs: nnx.Rngs,
    ):
        require_rngs(rngs)
        kernel = kernel_init(rngs.params(), (d, num_experts * slots))
        self.kernel = nnx.Param(kernel.reshape(d, num_experts, slots))
        self.scale = nnx.Param(jnp.float32(scale))

    def __call__(self, x: Float[Array, "g t d"], mask: Bool[Array, "g t"] | None = None) -> SoftRouting:
        """The slots' and the tokens' mixtures; `mask` is False where a token is padding."""
        tokens = _unit_length(widened(x), axis=-1)
        slots = (self.scale[...] * _unit_length(widened(self.kernel[...]), axis=0)).astype(tokens.dtype)
        logits = jnp.einsum("gtd,dec->gtec", tokens, slots, precision=jax.lax.Precision.HIGHEST)
        return routing.soft_routing(logits, mask)

    def after_step(self, load: Float[Array, " e"], progress: Float[Array, ""]) -> None:
        """Nothing: all it has is learnt."""


def _unit_length(x: Array, axis: int) -> Array:
    # eps inside the root: blank image patches are zero rows, and the norm's gradient there would be NaN.
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=axis, keepdims=True) + 1e-6)
