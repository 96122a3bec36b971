"""The linear maps that experts are made of, in floats or in int8, applied by the product that a dispatch needs.

Axis letters: e experts, n rows, d inputs, h outputs.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Int8, PyTree

from moejax.kernels.slots import slot_matmul
from moejax.widening import wide


class Int8Linear(nnx.Module):
    """x · kernel · scale + bias, of a kernel int8 [*e, d, h] and a scale float32 [*e, h]. Neither is a parameter.

    `param_dtype`: of the kernel that it stands for, which has a say in what the map computes in.
    """

    def __init__(self, kernel: Int8[Array, "*e d h"], scale: Float[Array, "*e h"], linear: nnx.Linear):
        """`linear`: the map that these are of, which has the bias and the dtypes."""
        spec = linear.kernel.get_metadata("out_sharding", None)
        of_scale = spec and (*spec[:-2], spec[-1])
        self.kernel = nnx.Variable(kernel, out_sharding=spec, eager_sharding=False)
        self.scale = nnx.Variable(scale, out_sharding=of_scale, eager_sharding=False)
        self.bias, self.dtype, self.promote_dtype = linear.bias, linear.dtype, linear.promote_dtype
        self.param_dtype = linear.kernel[...].dtype

    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n h"]:
        """The output for each row."""
        return apply_to_one(self, x)

    def standing_for(self, dtype: DTypeLike) -> "Int8Linear":
        """The same map of a kernel of that type: whole numbers and scale stay as they are."""
        copy = jax.tree.map(lambda leaf: leaf, self)
        copy.bias, copy.param_dtype = cast(self.bias, dtype), jnp.dtype(dtype)
        return copy


LinearMap = nnx.Linear | Int8Linear


def cast(tree: PyTree, dtype: DTypeLike | None) -> PyTree:
    """Cast the floating-point arrays of a tree, such as experts, to `dtype`; None: leave them."""

    def one(node):
        if isinstance(node, Int8Linear):
            return node.standing_for(dtype)
        return node.astype(dtype) if jnp.issubdtype(node.dtype, jnp.floating) else node

    return tree if dtype is None else jax.tree.map(one, tree, is_leaf=lambda node: isinstance(node, Int8Linear))


def apply_to_one(linear: LinearMap, x: Float[Array, "*n d"]) -> Float[Array, "*n h"]:
    """A plain map by a product that is a fast one for all experts at once under vmap."""
    return apply_by(linear, x, slot_matmul, lambda vector, rows: vector[None])


def apply_by(
    linear: LinearMap,
    x: Float[Array, "*n d"],
    product: Callable[..., Array],
    spread: Callable[..., Array],
) -> Float[Array, "*n h"]:
    """A plain map by another product; `spread(bias, rows)`: the bias of each row, or one for all, and so of a scale.

    ValueError for tokens of another width than the map reads.
    """
    rows, kernel = x.reshape(-1, x.shape[-1]), linear.kernel[...]
    if rows.shape[-1] != kernel.shape[-2]:
        raise ValueError(
            f"an expert's linear map reads {kernel.shape[-2]} numbers a token, but gets {rows.shape[-1]}; let"
            " make_expert make experts for tokens of that width."
        )
    bias = None if linear.bias is None else linear.bias[...]
    if isinstance(linear, Int8Linear):
        rows, _, bias = linear.promote_dtype((rows, jnp.zeros((), linear.param_dtype), bias), dtype=linear.dtype)
        y = _of_int8(rows, kernel, linear.scale[...], product, spread)
    else:
        rows, kernel, bias = linear.promote_dtype((rows, kernel, bias), dtype=linear.dtype)
        y = product(rows, kernel)
    if bias is not None:
        y = y + spread(bias, y.shape[0])
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _of_int8(
    rows: Float[Array, "n d"],
    kernel: Int8[Array, "*e d h"],
    scale: Float[Array, "*e h"],
    product: Callable[..., Array],
    spread: Callable[..., Array],
) -> Float[Array, "n h"]:
    # Of whole numbers a product is up to 127 / max |W| times too large, which float16 may not hold.
    whole = product(rows.astype(jnp.float32) if rows.dtype == jnp.float16 else rows, kernel)
    return (whole.astype(wide(rows.dtype)) * spread(scale, len(whole))).astype(rows.dtype)


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
