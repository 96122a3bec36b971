"""Experts that compute nothing, or next to nothing (MoE++, Jin et al. 2024; AdaMoE, Zeng et al. 2024).

What they add is a token times a number plus a few vectors, so it is computed where the token is, without dispatch, for
all tokens at once. `moejax.routing.zero_computation` says how they are chosen and balanced.

Axis letters: g groups, t tokens of a group, z experts that compute nothing, c constant experts, d model width.
"""

from collections.abc import Iterator
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field

from moejax.routing import TopKRouting, ZeroComputation
from moejax.widening import widened

Tau = Annotated[float, Field(gt=0, le=2**10)]


class ZeroComputationExperts(nnx.Module):
    """The copy and constant experts of a layer, for tokens of width d; what zero and null ones add is nothing."""

    def __init__(self, kinds: ZeroComputation, d: int, *, rngs: nnx.Rngs):
        self.kinds, self.d = kinds, d
        if kinds.constant:
            init = nnx.initializers.lecun_normal(batch_axis=(0,))
            self.kernel = nnx.Param(init(rngs.params(), (kinds.constant, d, 2)))
            self.constant = nnx.Param(jax.random.normal(rngs.params(), (kinds.constant, d)))

    def __call__(
        self, y: Float[Array, "g t d2"], x: Float[Array, "g t d"], routing: TopKRouting
    ) -> Float[Array, "g t d2"]:
        """The tokens' output y with what these experts add; computed in float32 at least.

        Raises ValueError where tokens and outputs are not of width d.
        """
        if {x.shape[-1], y.shape[-1]} != {self.d}:
            raise ValueError(
                f"copy_experts is {self.kinds.copy} and constant_experts {self.kinds.constant}, which add a token, but"
                f" tokens have the width {x.shape[-1]}, the experts' outputs {y.shape[-1]} and the layer {self.d}; use"
                " zero_experts or null_experts."
            )
        x = widened(x)
        kinds, gates = self.kinds, routing.gates[..., routing.computing + self.kinds.zero :]
        added = copied(x, gates[..., : kinds.copy])
        if kinds.constant:
            of_constant = gates[..., kinds.copy : kinds.copy + kinds.constant]
            added += mixed(x, of_constant, self.kernel[...], self.constant[...])
        return (y + added).astype(y.dtype)


def copied(x: Float[Array, "g t d"], gates: Float[Array, "g t z"]) -> Float[Array, "g t d"]:
    """Each token, times the weights of its copy experts (MoE++, equation 4)."""
    return gates.sum(-1, keepdims=True) * x


def mixed(
    x: Float[Array, "g t d"],
    gates: Float[Array, "g t c"],
    kernel: Float[Array, "c d 2"],
    constant: Float[Array, "c d"],
) -> Float[Array, "g t d"]:
    """Each token's sum of α₁ x + α₂ v, weighted, with [α₁, α₂] = softmax(x · W), W and v of an expert (equation 5)."""
    mix = jax.nn.softmax(jnp.einsum("gtd,cda->gtca", x, kernel), axis=-1)
    of_token, of_constant = jnp.moveaxis(gates[..., None] * mix, -1, 0)
    return of_token.sum(-1, keepdims=True) * x + jnp.einsum("gtc,cd->gtd", of_constant, constant)


def contradictions(o: Any, router: Any) -> Iterator[str]:
    """A sentence for each combination of a layer's options that cannot be."""
    kinds = ZeroComputation.of(o)
    balanced = "a router that a loss balances, such as softmax_top_k"
    if not kinds.total:
        if kinds.tau != 1:
            yield f"`zero_computation_tau` is {kinds.tau:g}, but all experts compute; set `zero_experts` or its like."
    elif not router.token_choice:
        yield (
            f"{kinds.total} experts compute nothing (`zero_experts` and its like), but with `router` expert_choice a"
            " token cannot choose to skip: experts choose, as many tokens as they have slots; use another router."
        )
    elif router.evens_load and kinds.tau != 1:
        yield (
            f"`zero_computation_tau` is {kinds.tau:g}, but the router by itself gives all experts the same load; leave"
            f" it at 1, or use {balanced}."
        )
    elif router.evens_load and kinds.null:
        yield (
            f"`null_experts` is {kinds.null}, which are balanced together, but the router by itself balances each; use"
            f" `zero_experts`, or {balanced}."
        )
