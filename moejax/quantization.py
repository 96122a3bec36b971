"""Experts whose matrices are whole numbers of 8 bits, for evaluation: a quarter of the memory, and a small error.

A matrix is kept as W ≈ q · s: q int8 in -127 … 127, and for each output channel s = max |W| / 127, so that no weight is
further off than s / 2 (Dettmers et al. 2022, LLM.int8(), section 2.1: symmetric, by column). Since s is one number for
a whole output channel, x · W = (x · q) · s: tokens are multiplied as they are, in their own dtype, and nothing of them
is rounded. Routers, biases and norms stay as they are.

Axis letters: e experts, d inputs, h outputs.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int8

from moejax.linear_maps import Int8Linear, more_than_plain

M = TypeVar("M", bound=nnx.Module)
LARGEST = 127


def rounded(kernel: Float[Array, "*e d h"]) -> tuple[Int8[Array, "*e d h"], Float[Array, "*e h"]]:
    """A matrix, or a stack of them, in whole numbers, and each output channel's scale; of zeros it is 1.

    The scale of a channel with a weight that is not finite is not finite either, and so are its outputs.
    """
    step = jnp.abs(kernel.astype(jnp.float32)).max(-2) / LARGEST
    scale = jnp.where(step == 0, 1.0, step)
    return jnp.round(kernel / scale[..., None, :]).astype(jnp.int8), scale


def quantize(module: M) -> M:
    """The module with the linear maps of its experts, shared ones too, in int8: an MoE layer, or a model with some.

    What it is made of stays as it was. Raises ValueError where there is no such map, or one that is more than
    x · kernel + bias.
    """
    found = 0

    def in_int8(linear):
        nonlocal found
        if not isinstance(linear, nnx.Linear):
            return linear
        if type(linear) is not nnx.Linear:
            raise ValueError(
                f"quantize knows nnx.Linear alone, and not what {type(linear).__name__} adds; leave it out."
            )
        if more := more_than_plain(linear):
            raise ValueError(f"quantize cannot keep {more} of an expert's linear map; leave it out.")
        found += 1
        return Int8Linear(*rounded(linear.kernel[...]), linear)

    copy = jax.tree.map(lambda leaf: leaf, module)
    for _, node in list(nnx.iter_modules(copy)):
        for name in ("experts", "shared"):
            if isinstance(part := getattr(node, name, None), nnx.Module):
                setattr(node, name, jax.tree.map(in_int8, part, is_leaf=lambda node: isinstance(node, nnx.Linear)))
    if not found:
        raise ValueError(f"{type(module).__name__} has no experts with linear maps; quantize an MoE layer, or a model.")
    return copy
