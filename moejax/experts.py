"""Experts: any Flax module, E copies of it stacked along a leading axis and applied under one vmap.

The module must be a pure function of its parameters and its input: state that it changes while it runs (the counter of
`nnx.Dropout`, the averages of `nnx.BatchNorm`) does not leave the vmap.

Axis letters: g groups, e experts, c slots of an expert, d model width, h hidden width.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

M = TypeVar("M", bound=nnx.Module)


class MLP(nnx.Module):
    """Two linear maps with a GELU between them: the feed-forward block of a transformer."""

    def __init__(self, d: int, h: int, *, dtype: DTypeLike | None = None, rngs: nnx.Rngs):
        self.up = nnx.Linear(d, h, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(h, d, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        return self.down(jax.nn.gelu(self.up(x)))


def stack_experts(make: Callable[[nnx.Rngs], M], num_experts: int, rngs: nnx.Rngs) -> M:
    """E independently initialised copies as one module: every parameter gains a leading axis e."""
    return nnx.split_rngs(splits=num_experts)(nnx.vmap(make, in_axes=0, out_axes=0))(rngs)


def apply_experts(experts: nnx.Module, x: Float[Array, "g e c d"]) -> Float[Array, "g e c d"]:
    """Each expert on its own slots."""
    return jax.vmap(lambda expert, x: expert(x), in_axes=(0, 1), out_axes=1)(experts, x)


def apply_experts_to_all(experts: nnx.Module, x: Float[Array, "g t d"]) -> Float[Array, "g e t d"]:
    """Every expert on every token, without E copies of the tokens."""
    return jax.vmap(lambda expert, x: expert(x), in_axes=(0, None), out_axes=1)(experts, x)
