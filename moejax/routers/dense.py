"""The router of a dense layer."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from moejax import routing
from moejax.makers import MakeExpert, made
from moejax.options import Count, Positive, PositiveOrNone, Width, checked
from moejax.randomness import require_rngs
from moejax.routers.router import Initializer, RouterState, linear, small
from moejax.routing import DenseRouting
from moejax.widening import widened


class DenseRouter(nnx.Module):
    """Softmax over all experts at a temperature that is fixed, learnt, or annealed from one value to another.

    The logits are linear, or those of the network that `make_gate` makes. Raises ValueError, in one sentence, for
    arguments that make no sense.
    """

    @checked
    def __init__(
        self,
        d: Width,
        num_experts: Count,
        *,
        temperature: Positive = 1.0,
        learn_temperature: bool = False,
        final_temperature: PositiveOrNone = None,
        make_gate: MakeExpert | None = None,
        kernel_init: Initializer = small,
        rngs: nnx.Rngs,
    ):
        require_rngs(rngs)
        self.kernel = nnx.Param(kernel_init(rngs.params(), (d, num_experts))) if make_gate is None else None
        self.gate = None if make_gate is None else made(make_gate, rngs, "make_gate")
        self.num_experts, self.temperature, self.final_temperature = num_experts, temperature, final_temperature
        # Kept as a logarithm, so that learning cannot take it below 0.
        log = jnp.log(jnp.float32(temperature))
        annealed = None if final_temperature is None else RouterState(log)
        self.log_temperature = nnx.Param(log) if learn_temperature else annealed

    @staticmethod
    def contradictions(o: Any) -> Iterator[str]:
        """What the options must not be together."""
        if o.final_temperature is not None and o.learn_temperature:
            yield (
                f"`final_temperature` is {o.final_temperature:g}, but `learn_temperature` is true; a temperature is"
                " either annealed or learnt."
            )

    def __call__(
        self,
        x: Float[Array, "g t d"],
        mask: Bool[Array, "g t"] | None = None,
        *,
        key: Key[Array, ""] | None = None,
        assigned: Int[Array, "g t"] | None = None,
    ) -> DenseRouting:
        """Route the tokens; `key`: for a gate that draws; `assigned`: guided, with sigmoid(temperature) the share of
        the learnt probabilities in the weights.
        """
        temperature = self.temperature
        if self.log_temperature is not None:
            log = self.log_temperature[...]
            fixed = isinstance(self.log_temperature, RouterState)
            temperature = jnp.exp(jax.lax.stop_gradient(log) if fixed else log)
        decision = routing.dense_routing(self.logits(x, key), temperature, mask)
        if assigned is None:
            return decision
        share = jax.nn.sigmoid(jnp.float32(temperature))
        guided = routing.guided_weights(decision.probs, assigned, share, mask)
        return decision._replace(assigned=assigned, guided=guided)

    def logits(self, x: Float[Array, "g t d"], key: Key[Array, ""] | None) -> Float[Array, "g t e"]:
        """In float32 at least; ValueError if the gate gives another number than one for each expert."""
        if self.gate is None:
            return linear(widened(x), self.kernel)
        logits = widened(self.gate(x) if key is None else self.gate(x, key=key))
        if logits.shape != (want := (*x.shape[:-1], self.num_experts)):
            raise ValueError(
                f"make_gate made a {type(self.gate).__name__} whose output has the shape {logits.shape}; a logit for"
                f" each expert of each token makes it {want}."
            )
        return logits

    def after_step(self, load: Float[Array, " e"], progress: Float[Array, ""]) -> None:
        """Anneal the temperature, if it has somewhere to go."""
        if self.final_temperature is not None:
            self.log_temperature[...] = jnp.log(routing.anneal(self.temperature, self.final_temperature, progress))
