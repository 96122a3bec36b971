"""Experts: any Flax module, E copies of it stacked along a leading axis and applied under one vmap.

The module must be a pure function of its parameters and its input: state that it changes while it runs (the counter of
`nnx.Dropout`, the averages of `nnx.BatchNorm`) does not leave the vmap, and is refused. One that draws random numbers
in training says so by an attribute `draws` and is then called as `expert(x, key=…)`, each expert with a key of its own.

An expert whose call has a second argument `linear`, by which it applies all its linear maps, can also be applied to
rows sorted by expert, any number for each: the same module with each linear map replaced by its grouped form. `MLP` and
`GLU` are such experts. All of its parameters must belong to those linear maps.

Axis letters: e experts, g groups, c slots of an expert, n rows, d model width, h hidden width.
"""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Int, Key

from moejax.arguments import refuse, whole
from moejax.kernels.grouped_matmul import grouped_matmul, rows_of_groups
from moejax.kernels.slots import slot_matmul
from moejax.makers import MakeExpert, made, refuse_what_changes
from moejax.sharding import DEFAULT_AXES, EXPERTS, SLOTS_BY_EXPERT, SLOTS_BY_TOKEN, MeshAxes, constrain

Activation = Callable[[Array], Array]
Linear = Callable[[nnx.Linear, Array], Array]


def apply_linear(linear: nnx.Linear, x: Array) -> Array:
    """The linear map itself: what `linear` is for an expert by itself."""
    return linear(x)


class MLP(nnx.Module):
    """Two linear maps with an activation between them: the feed-forward block of a transformer."""

    def __init__(
        self,
        d: int,
        h: int,
        *,
        activation: Activation = jax.nn.gelu,
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        self.up = nnx.Linear(d, h, use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(h, d, use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch d"], linear: Linear = apply_linear) -> Float[Array, "*batch d"]:
        return linear(self.down, self.activation(linear(self.up, x)))


class GLU(nnx.Module):
    """Gated linear unit: one linear map to 2h, the activation of its first half gates the second, one map back.

    With SiLU the SwiGLU of Shazeer 2020 ("GLU Variants Improve Transformer", equation 6), the expert of Mixtral, OLMoE,
    Qwen-MoE and DeepSeek.
    """

    def __init__(
        self,
        d: int,
        h: int,
        *,
        activation: Activation = jax.nn.silu,
        use_bias: bool = False,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        self.gate_up = nnx.Linear(d, 2 * h, use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(h, d, use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch d"], linear: Linear = apply_linear) -> Float[Array, "*batch d"]:
        gate, up = jnp.split(linear(self.gate_up, x), 2, axis=-1)
        return linear(self.down, self.activation(gate) * up)


def stack_experts(make: MakeExpert, num_experts: int, rngs: nnx.Rngs, mesh_axes: MeshAxes = DEFAULT_AXES) -> Any:
    """E independently initialised copies as one module: every parameter gains a leading axis e.

    That axis is in their partition metadata (`nnx.get_partition_spec`) under the name of experts' mesh axes.

    Raises ValueError, in one sentence, if `make` is no function of `rngs` or makes what vmap cannot run.
    """
    refuse(whole("num_experts", num_experts))
    one = partial(made, make, name="make_expert")
    experts = nnx.split_rngs(splits=num_experts)(nnx.vmap(one, in_axes=0, out_axes=0))(rngs)
    refuse_what_changes(experts, "make_expert")
    for _, node in nnx.iter_graph(experts):
        if isinstance(node, nnx.Variable):
            of_one = node.get_metadata("out_sharding", None) or (None,) * (node.ndim - 1)
            # Metadata alone: eager sharding would constrain the array now, and fail without a mesh.
            node.set_metadata(out_sharding=(*mesh_axes.spec(EXPERTS), *of_one), eager_sharding=False)
    return experts


def apply_experts(
    experts: nnx.Module, x: Float[Array, "e g c d"], key: Key[Array, ""] | None = None
) -> Float[Array, "e g c d2"]:
    """Each expert on its own slots; `key`: for experts that draw, in training.

    On a mesh the slots cross to the experts' devices and back, each time in an all-to-all.
    """
    x = constrain(constrain(x, SLOTS_BY_TOKEN), SLOTS_BY_EXPERT)
    y = _map(experts, x, key, over_x=0)
    return constrain(constrain(y, SLOTS_BY_EXPERT), SLOTS_BY_TOKEN)


def apply_experts_to_all(
    experts: nnx.Module, x: Float[Array, "g t d"], key: Key[Array, ""] | None = None
) -> Float[Array, "e g t d2"]:
    """Every expert on every token, without E copies of the tokens; `key`: for experts that draw, in training."""
    return constrain(_map(experts, x, key, over_x=None), SLOTS_BY_EXPERT)


def key_for(
    module: nnx.Module | None, key: Key[Array, ""] | None, train: bool, stream: int = 2
) -> Key[Array, ""] | None:
    """The key for a module that draws in training, a stream of its own beside the router's noise; None for others.

    Raises ValueError if such a module gets none.
    """
    if not (train and getattr(module, "draws", False)):
        return None
    if key is None:
        raise ValueError(
            f"key is None, but {type(module).__name__} draws random numbers in training; pass key=jax.random.key(…),"
            " another one in every step."
        )
    return jax.random.fold_in(key, stream)


def _map(experts: nnx.Module, x: Array, key: Key[Array, ""] | None, over_x: int | None) -> Array:
    options = {"linear": _of_one} if can_be_grouped(experts) else {}
    if key is None:
        return jax.vmap(lambda expert, x: expert(x, **options), in_axes=(0, over_x))(experts, x)
    keys = jax.random.split(key, len(jax.tree.leaves(experts)[0]))
    return jax.vmap(lambda expert, x, key: expert(x, key=key, **options), in_axes=(0, over_x, 0))(experts, x, keys)


def _of_one(linear: nnx.Linear, x: Float[Array, "*n d"]) -> Float[Array, "*n d2"]:
    """The linear map itself, its product the one that knows what to do when it is mapped over all experts."""
    return _applied(linear, x, slot_matmul, lambda bias, rows: bias[None]) if _is_plain(linear) else linear(x)


def _applied(
    linear: nnx.Linear, x: Float[Array, "*n d"], product: Callable[..., Array], spread: Callable[..., Array]
) -> Float[Array, "*n d2"]:
    """A plain linear map by another product; `spread` makes its bias one for each of so many rows."""
    bias = None if linear.bias is None else linear.bias[...]
    rows, kernel, bias = linear.promote_dtype(
        (x.reshape(-1, x.shape[-1]), linear.kernel[...], bias), dtype=linear.dtype
    )
    y = product(rows, kernel)
    if bias is not None:
        y = y + spread(bias, y.shape[0])
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _is_plain(linear: nnx.Module) -> bool:
    """Whether a linear map is x · kernel + bias and nothing else."""
    return type(linear) is nnx.Linear and linear.dot_general is lax.dot_general and linear.precision is None


def can_be_grouped(experts: nnx.Module) -> bool:
    """Whether the experts can be applied to rows sorted by expert: whether their call takes `linear`."""
    return "linear" in inspect.signature(experts.__call__).parameters


def apply_experts_to_groups(
    experts: nnx.Module, x: Float[Array, "n d"], sizes: Int[Array, " e"], key: Key[Array, ""] | None = None
) -> Float[Array, "n d2"]:
    """Each expert on its own rows: the first `sizes[0]` of them the first one's, and so on.

    `key`: for experts that draw, in training; they draw for all rows at once. Raises ValueError for experts that use a
    parameter otherwise than by `linear`: nobody would know which row's.
    """
    if others := _used_otherwise(experts, x):
        raise ValueError(
            f"dispatch is 'grouped', which needs experts that apply all their parameters by `linear`, but"
            f" {type(experts).__name__} has {', '.join(others)} beside those; use 'gather'."
        )
    linear = partial(_grouped, sizes)
    return experts(x, linear=linear) if key is None else experts(x, linear=linear, key=key)


def _used_otherwise(experts: nnx.Module, x: Float[Array, "n d"]) -> list[str]:
    """The experts' variables that belong to no plain linear map which `linear` is called with."""
    by_linear: set[int] = set()
    others: list[str] = []

    def see(linear: nnx.Linear, x: Array) -> Array:
        if _is_plain(linear):
            by_linear.update(map(id, (linear.kernel, linear.bias)))
        return linear(x)

    def look(expert: nnx.Module, x: Array) -> None:
        expert(x, linear=see)
        for path, node in nnx.iter_graph(expert):
            if isinstance(node, nnx.Variable) and id(node) not in by_linear:
                others.append(".".join(map(str, path)))

    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), experts)
    jax.eval_shape(look, one, jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype))
    return others


def _grouped(sizes: Int[Array, " e"], linear: nnx.Linear, x: Float[Array, "n *parts d"]) -> Float[Array, "n *parts d2"]:
    # An expert may cut its rows into parts, such as patches: as many rows more for the linear map.
    sizes = sizes * math.prod(x.shape[1:-1])
    product = partial(grouped_matmul, sizes=sizes)
    return _applied(linear, x, product, lambda bias, rows: rows_of_groups(bias, sizes, rows))
