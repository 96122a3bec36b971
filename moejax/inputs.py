"""A layer's inputs: their shapes checked, their tokens in groups, and padding replaced by zeros; and the way back.

A weight of zero would not do, since 0 · NaN is NaN. So nothing in padding reaches an output, a loss or a gradient, as
long as experts are finite at zeros, and their derivatives are: padding and empty slots are such tokens to them.

Axis letters: g groups, t tokens of a group, d model width, r width of the router's input.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
from jax.export import is_symbolic_dim
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Shaped
from numpy import ndarray
from pydantic import PlainValidator

from moejax.sharding import TOKENS, all_gathered, constrain

AnyArray = Array | ndarray


def is_computable(dtype: Any) -> bool:
    """Whether a dtype is one of floating-point numbers of 16 bits or more: those of 8 can be kept, but not added up."""
    return jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize > 1


def _floating(dtype: Any) -> Any:
    try:
        known = dtype is None or is_computable(jnp.dtype(dtype))
    except TypeError:
        known = False
    if not known:
        raise ValueError(f"{dtype!r}; it must be a floating-point type of at least 16 bits such as 'bfloat16', or None")
    return dtype


ComputeDtype = Annotated[DTypeLike | None, PlainValidator(_floating)]


class Inputs(NamedTuple):
    """Tokens in groups, and what belongs to each token."""

    x: Float[Array, "g t d"]
    router_x: Float[Array, "g t r"]
    ids: Int[Array, "g t"]
    mask: Bool[Array, "g t"] | None = None
    assigned: Int[Array, "g t"] | None = None
    given: Int[Array, "g t k"] | None = None
    starts: Bool[Array, "g t"] | None = None


def prepare(
    x: Float[AnyArray, "*batch t d"],
    router_width: int,
    *,
    group_size: int | None = None,
    dtype: DTypeLike | None = None,
    mask: Bool[AnyArray, "*#batch #t"] | None = None,
    ids: Int[AnyArray, "*#batch #t"] | None = None,
    router_input: Float[AnyArray, "*#batch #t r"] | None = None,
    assigned: Int[AnyArray, "*#batch #t"] | None = None,
    given: Int[AnyArray, "*#batch #t _k"] | None = None,
    k: int | None = None,
    starts: Bool[AnyArray, "*#batch #t"] | None = None,
) -> tuple[Inputs, Callable[[Shaped[Array, "g t *rest"]], Shaped[Array, "..."]]]:
    """Check a layer's inputs and put all tokens, in order, into groups, which are sharded over tokens' mesh axes.

    Groups have `group_size` tokens, and padding fills up the last one; None: `batch`, flattened, is the groups.
    `dtype`: what tokens are cast to for the experts; the router's input stays as it is. `k`: how many experts are given
    for a token. An input without tokens becomes one token of padding.

    Returns the inputs, and the function that brings what each token gets, [g, t, ...], back to [*batch, t, ...].

    Raises ValueError, in one sentence, for an array of a wrong shape or dtype.
    """
    x = jnp.asarray(x)
    if x.ndim < 2:
        raise ValueError(f"x has the shape {x.shape}; tokens come as [..., t, d], one of width d as [1, d].")
    tokens = x.shape[:-1]
    router_x = x if router_input is None else jnp.asarray(router_input)
    if router_x.shape[-1:] != (router_width,):
        name = "x" if router_input is None else "router_input"
        raise ValueError(f"{name} has the shape {router_x.shape}; the router reads {router_width} numbers a token.")
    group, pads = _grouping(tokens, group_size)

    def grouped(name: str, array: AnyArray | None, kind: Any, axes: int = 0) -> Any:
        return None if array is None else constrain(group(_checked(name, array, tokens, kind, axes)), TOKENS)

    position = jnp.arange(x.shape[-2])
    inputs = Inputs(
        grouped("x", x, jnp.floating, 1),
        grouped("router_input", router_input, jnp.floating, 1),
        grouped("ids", position if ids is None else ids, jnp.integer),
        grouped("mask", jnp.ones(tokens, bool) if mask is None and pads else mask, jnp.bool_),
        grouped("assigned", assigned, jnp.integer),
        grouped("given", given, jnp.integer, 1),
        grouped("starts", position == 0 if starts is None else starts, jnp.bool_),
    )
    if (experts := inputs.given) is not None:
        if experts.shape[-1] != k:
            shape = (*tokens, experts.shape[-1])
            raise ValueError(f"given has the shape {shape}; k experts for each token make it {(*tokens, k)}.")
        inputs = inputs._replace(given=_int32(experts))
    in_groups = where_real(inputs.mask, inputs.x)
    router_x = in_groups if router_input is None else where_real(inputs.mask, inputs.router_x)
    in_groups = in_groups if dtype is None else in_groups.astype(dtype)
    return inputs._replace(x=in_groups, router_x=router_x), partial(ungroup, shape=tokens)


def where_real(mask: Bool[Array, "g t"] | None, values: Float[Array, "g t d"]) -> Float[Array, "g t d"]:
    """The values, with zeros at padding."""
    return values if mask is None else jnp.where(mask[..., None], values, 0)


def _grouping(tokens: tuple[int, ...], size: int | None) -> tuple[Callable[[Array], Array], bool]:
    """What puts one array's tokens, in order, into groups of `size`, and whether padding, all zeros, fills up the last.

    Fewer tokens than `size` make one smaller group.
    """
    axes, t, count = len(tokens), tokens[-1], math.prod(tokens)
    if 0 in tokens:
        return lambda a: jnp.zeros((1, 1, *a.shape[axes:]), a.dtype), True
    if size is None or size == t:
        return lambda a: a.reshape(-1, t, *a.shape[axes:]), False
    if not is_symbolic_dim(count):
        size = min(size, count)
    groups = -(-count // size)
    missing = groups * size - count

    def group(a: Shaped[Array, "..."]) -> Shaped[Array, "g t *rest"]:
        flat = a.reshape(-1, *a.shape[axes:])
        return jnp.pad(flat, [(0, missing), *[(0, 0)] * (flat.ndim - 1)]).reshape(groups, size, *a.shape[axes:])

    return group, bool(missing)


def ungroup(values: Shaped[Array, "g2 t2 *rest"], shape: tuple[int, ...]) -> Shaped[Array, "..."]:
    """Undo a layer's grouping: the tokens' values in their first shape, [*batch, t] = `shape`."""
    flat = all_gathered(values).reshape(-1, *values.shape[2:])
    return flat[: math.prod(shape)].reshape(*shape, *values.shape[2:])


def _int32(experts: Int[Array, "..."]) -> Int[Array, "..."]:
    """The same numbers; what int32 does not hold is its greatest, or -1, and no other expert."""
    limits = jnp.iinfo(experts.dtype)
    return jnp.clip(experts, max(limits.min, -1), min(limits.max, 2**31 - 1)).astype(jnp.int32)


def _checked(name: str, array: AnyArray, tokens: tuple[int, ...], kind: Any, axes: int = 0) -> Shaped[Array, "..."]:
    """The array broadcast to [*tokens, ...], where the last `axes` axes are its own."""
    array = jnp.asarray(array)
    if not (is_computable(array.dtype) if kind is jnp.floating else jnp.issubdtype(array.dtype, kind)):
        raise ValueError(f"{name} has the dtype {array.dtype}; {_KINDS[kind].format(name=name)}.")
    shape = (*tokens, *array.shape[array.ndim - axes :])
    try:
        return jnp.broadcast_to(array, shape)
    except ValueError:
        want = f"{tokens} and one axis more" if axes else f"{tokens}"
        raise ValueError(
            f"{name} has the shape {array.shape}; one entry a token of x makes it {want}, or what broadcasts to that."
        ) from None


_KINDS = {
    jnp.floating: "it must be floating-point numbers of at least 16 bits, d a token",
    jnp.integer: "it must be whole numbers, one a token",
    jnp.bool_: "it must be bool, one a token (try {name} != 0)",
}
