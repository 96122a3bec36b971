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
from jax import lax
from jaxtyping import Array, Float, Int8

M = TypeVar("M", bound=nnx.Module)
LARGEST = 127


class Int8Linear(nnx.Module):
    """x · kernel · scale + bias, of a kernel int8 [*e, d, h] and a scale float32 [*e, h]. Neither is a parameter."""

    def __init__(self, linear: nnx.Linear):
        kernel, scale = rounded(linear.kernel[...])
        spec = linear.kernel.get_metadata("out_sharding", None)
        of_scale = spec and (*spec[:-2], spec[-1])
        self.kernel = nnx.Variable(kernel, out_sharding=spec, eager_sharding=False)
        self.scale = nnx.Variable(scale, out_sharding=of_scale, eager_sharding=False)
        self.bias, self.dtype, self.promote_dtype = linear.bias, linear.dtype, linear.promote_dtype

    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n h"]:
        """The output for each row."""
        bias = None if self.bias is None else self.bias[...]
        x, kernel, scale, bias = self.promote_dtype((x, self.kernel[...], self.scale[...], bias), dtype=self.dtype)
        y = x @ kernel
        one_row = (*(1,) * (y.ndim - 1), -1)
        y = y * scale.reshape(one_row)
        return y if bias is None else y + bias.reshape(one_row)


def rounded(kernel: Float[Array, "*e d h"]) -> tuple[Int8[Array, "*e d h"], Float[Array, "*e h"]]:
    """A matrix, or a stack of them, in whole numbers, and each output channel's scale; of zeros it is 1."""
    step = jnp.abs(kernel.astype(jnp.float32)).max(-2) / LARGEST
    scale = jnp.where(step > 0, step, 1.0)
    return jnp.round(kernel / scale[..., None, :]).astype(jnp.int8), scale


def more_than_plain(linear: nnx.Module) -> str:
    """What a linear map has beyond x · kernel + bias, in words; empty for a plain one."""
    if type(linear) is Int8Linear:
        return ""
    if type(linear) is not nnx.Linear:
        return f"the class {type(linear).__name__}"
    for name in ("precision", "preferred_element_type"):
        if (value := getattr(linear, name)) is not None:
            return f"{name} {value}"
    return "" if linear.dot_general is lax.dot_general else "a dot_general of its own"


def quantize(module: M) -> M:
    """The module with the linear maps of its experts, shared ones too, in int8: an MoE layer, or a model with some.

    What it is made of stays as it was. Raises ValueError where there is no such map, or one that is more than
    x · kernel + bias.
    """
    found = 0

    def in_int8(linear):
        nonlocal found
        if not _is_linear(linear):
            return linear
        if more := more_than_plain(linear):
            raise ValueError(f"quantize cannot keep {more} of an expert's linear map; leave it out.")
        found += 1
        return Int8Linear(linear)

    copy = jax.tree.map(lambda leaf: leaf, module)
    for _, node in list(nnx.iter_modules(copy)):
        for name in ("experts", "shared"):
            if isinstance(part := getattr(node, name, None), nnx.Module):
                setattr(node, name, jax.tree.map(in_int8, part, is_leaf=_is_linear))
    if not found:
        raise ValueError(f"{type(module).__name__} has no experts with linear maps; quantize an MoE layer, or a model.")
    return copy


def _is_linear(node: object) -> bool:
    return type(node) is nnx.Linear
