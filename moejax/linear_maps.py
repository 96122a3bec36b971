"""The linear maps that experts are made of, in floats or in int8, applied by the product that a dispatch needs.

Axis letters: e experts, n rows, d inputs, h outputs.
"""

from collections.abc import Callable

from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int8

from moejax.kernels.slots import slot_matmul


class Int8Linear(nnx.Module):
    """x · kernel · scale + bias, of a kernel int8 [*e, d, h] and a scale float32 [*e, h]. Neither is a parameter."""

    def __init__(self, kernel: Int8[Array, "*e d h"], scale: Float[Array, "*e h"], linear: nnx.Linear):
        """`linear`: the map that these are of, which has the bias and the dtype."""
        spec = linear.kernel.get_metadata("out_sharding", None)
        of_scale = spec and (*spec[:-2], spec[-1])
        self.kernel = nnx.Variable(kernel, out_sharding=spec, eager_sharding=False)
        self.scale = nnx.Variable(scale, out_sharding=of_scale, eager_sharding=False)
        self.bias, self.dtype, self.promote_dtype = linear.bias, linear.dtype, linear.promote_dtype

    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n h"]:
        """The output for each row."""
        return apply_to_one(self, x)


LinearMap = nnx.Linear | Int8Linear


def apply_to_one(linear: LinearMap, x: Float[Array, "*n d"]) -> Float[Array, "*n h"]:
    """A plain map by a product that is a fast one for all experts at once under vmap."""
    return apply_by(linear, x, slot_matmul, lambda vector, rows: vector[None])


def apply_by(
    linear: LinearMap,
    x: Float[Array, "*n d"],
    product: Callable[..., Array],
    spread: Callable[..., Array],
) -> Float[Array, "*n h"]:
    """A plain map by another product; `spread(bias, rows)`: the bias of each row, or one for all, and so of a scale."""
    rows, kernel, scale = x.reshape(-1, x.shape[-1]), linear.kernel[...], None
    bias = None if linear.bias is None else linear.bias[...]
    if isinstance(linear, Int8Linear):
        rows, scale, bias = linear.promote_dtype((rows, linear.scale[...], bias), dtype=linear.dtype)
    else:
        rows, kernel, bias = linear.promote_dtype((rows, kernel, bias), dtype=linear.dtype)
    y = product(rows, kernel)
    if scale is not None:
        y = y * spread(scale, y.shape[0])
    if bias is not None:
        y = y + spread(bias, y.shape[0])
    return y.reshape(*x.shape[:-1], y.shape[-1])


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
