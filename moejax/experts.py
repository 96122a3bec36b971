"""Experts: E copies of any Flax module, stacked along a leading axis and run under one vmap.

A module must be a pure function of its parameters and its input. One that changes a variable as it runs (the counter of
`nnx.Dropout`, the averages of `nnx.BatchNorm`) is refused: under vmap the change would be lost. One that draws random
numbers in training sets `draws = True`; it is then called as `expert(x, key=…)`, each copy with a key of its own.

The grouped dispatch sorts tokens by expert, any number for each. It takes experts whose call has a second argument
`linear` and that use their parameters through it alone, as in `linear(self.up, x)`: `MLP`, `GLU`, and your own.

Axis letters: e experts, g groups, c slots of an expert, n rows, d model width, h hidden width.
"""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key
from pydantic import Field

from moejax.inputs import where_real
from moejax.kernels.grouped_matmul import grouped_matmul, rows_of_groups
from moejax.kernels.groups import Groups, few
from moejax.linear_maps import LinearMap, apply_by, apply_to_one, more_than_plain
from moejax.makers import MakeExpert, made
from moejax.options import Count, Width, checked
from moejax.parameters import parameters
from moejax.randomness import require_rngs
from moejax.routing import SparseRouting, TopKRouting
from moejax.sharding import DEFAULT_AXES, EXPERTS, SLOTS_BY_EXPERT, SLOTS_BY_TOKEN, MeshAxes, axes_in_use, constrain

Activation = Annotated[Callable[[Array], Array], Field()]  # which is checked, as plain types are
Linear = Callable[[LinearMap, Array], Array]

UNREAD = 2e6  # numbers left unread, from which sorting few tokens was seen to pay: `python -m benchmarks decoding`


def apply_linear(linear: LinearMap, x: Array) -> Array:
    """`linear(x)`: what an expert's argument `linear` is when the expert runs by itself."""
    return linear(x)


class MLP(nnx.Module):
    """Two linear maps with an activation between them: the feed-forward block of a transformer.

    `options`: those of `nnx.Linear`, for both maps: `dtype`, `param_dtype`, `precision`, `kernel_init`, ….
    """

    @checked
    def __init__(
        self,
        d: Width,
        h: Width,
        *,
        activation: Activation = jax.nn.gelu,
        use_bias: bool = True,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        linear: Any = partial(nnx.Linear, use_bias=use_bias, rngs=require_rngs(rngs), **options)
        self.up, self.down = linear(d, h), linear(h, d)
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch d"], linear: Linear = apply_linear) -> Float[Array, "*batch d"]:
        """The output for each token; `linear` applies one of its maps."""
        return linear(self.down, self.activation(linear(self.up, x)))


class GLU(nnx.Module):
    """Gated linear unit: one linear map to 2h, where the activation of the first half gates the second; one map back.

    With SiLU it is SwiGLU (Shazeer 2020, "GLU Variants Improve Transformer", equation 6), the expert of Mixtral, OLMoE,
    Qwen-MoE and DeepSeek. `options`: those of `nnx.Linear`, for both maps.
    """

    @checked
    def __init__(
        self,
        d: Width,
        h: Width,
        *,
        activation: Activation = jax.nn.silu,
        use_bias: bool = False,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        linear: Any = partial(nnx.Linear, use_bias=use_bias, rngs=require_rngs(rngs), **options)
        self.gate_up, self.down = linear(d, 2 * h), linear(h, d)
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch d"], linear: Linear = apply_linear) -> Float[Array, "*batch d"]:
        """The output for each token; `linear` applies one of its maps."""
        gate, up = jnp.split(linear(self.gate_up, x), 2, axis=-1)
        return linear(self.down, self.activation(gate) * up)


@checked
def stack_experts(make: MakeExpert, num_experts: Count, rngs: nnx.Rngs, mesh_axes: MeshAxes = DEFAULT_AXES) -> Any:
    """E independently initialised copies as one module: every parameter gains a leading axis e.

    That axis is in their partition metadata (`nnx.get_partition_spec`) under the name of experts' mesh axes.

    Raises ValueError if `make` is no function of `rngs`, gives a module that was made before, or makes one with
    variables that change while it runs.
    """
    require_rngs(rngs)
    one = partial(made, make, name="make_expert")
    try:
        experts = nnx.split_rngs(splits=num_experts)(nnx.vmap(one, in_axes=0, out_axes=0))(rngs)
    except ValueError as error:
        if "different trace level" not in str(error):
            raise
        raise ValueError(
            "make_expert gives a module that was made before, so that all experts would be one; make it in the"
            " function, as in make_expert=lambda rngs: moejax.MLP(8, 16, rngs=rngs)."
        ) from None
    name_expert_axis(experts, mesh_axes)
    return experts


def name_expert_axis(experts: nnx.Module, mesh_axes: MeshAxes) -> None:
    """Put experts' mesh axes into the partition metadata of stacked experts, unless they are there: in place."""
    for _, node in nnx.iter_graph(experts):
        if isinstance(node, nnx.Variable):
            of_one = node.get_metadata("out_sharding", None) or (None,) * (node.ndim - 1)
            if len(of_one) < node.ndim:
                # Metadata alone: eager sharding would constrain the array now, and fail without a mesh.
                node.set_metadata(out_sharding=(*mesh_axes.spec(EXPERTS), *of_one), eager_sharding=False)


def hidden_width(experts: nnx.Module, d: int) -> int:
    """The hidden width of an MLP with as many weights, and so about as many FLOPs a token, as each of these experts."""
    weights = sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(parameters(experts)) if leaf.ndim > 2)
    return weights // (2 * d)


def apply_experts(
    experts: nnx.Module, x: Float[Array, "e g c d"], key: Key[Array, ""] | None = None
) -> Float[Array, "e g c d2"]:
    """Each expert on its own slots; `key`: for experts that draw, in training.

    On a mesh the slots cross to the experts' devices and back, each time in an all-to-all.
    """
    x = constrain(constrain(x, SLOTS_BY_TOKEN), SLOTS_BY_EXPERT)
    y = _map(experts, len(x), x, key, over_x=0)
    return constrain(constrain(y, SLOTS_BY_EXPERT), SLOTS_BY_TOKEN)


def apply_experts_to_all(
    experts: nnx.Module, x: Float[Array, "g t d"], key: Key[Array, ""] | None = None, *, num_experts: int | None = None
) -> Float[Array, "e g t d2"]:
    """Every expert on every token, without E copies of the tokens; `key`: for experts that draw, in training.

    `num_experts`: E, which only experts with parameters tell by themselves.
    """
    if num_experts is None:
        num_experts = len(jax.tree.leaves(experts)[0])
    return constrain(_map(experts, num_experts, x, key, over_x=None), SLOTS_BY_EXPERT)


def add_shared(
    y: Float[Array, "g t d2"],
    shared: Any,
    gate: nnx.Linear | None,
    x: Float[Array, "g t d"],
    mask: Bool[Array, "g t"] | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "g t d2"]:
    """y and the shared expert's output for every token, times sigmoid(`gate`(x)) if there is one; for padding y alone.

    Raises ValueError for outputs of another width, which would be spread.
    """
    of_shared = shared(x) if key is None else shared(x, key=key)
    if of_shared.shape != y.shape:
        raise ValueError(
            f"`make_shared` makes an expert whose outputs have {of_shared.shape[-1]} numbers, but those of"
            f" `make_expert`'s have {y.shape[-1]}; make them equal, for they are added."
        )
    if gate is not None:
        of_shared = jax.nn.sigmoid(gate(x)).astype(of_shared.dtype) * of_shared
    return y + where_real(mask, of_shared)


def _map(experts: nnx.Module, num_experts: int, x: Array, key: Key[Array, ""] | None, over_x: int | None) -> Array:
    options = {"linear": _of_one} if can_be_grouped(experts) else {}
    each = partial(jax.vmap, axis_size=num_experts)
    if key is None:
        y = each(lambda expert, x: expert(x, **options), in_axes=(0, over_x))(experts, x)
    else:
        keys = jax.random.split(key, num_experts)
        y = each(lambda expert, x, key: expert(x, key=key, **options), in_axes=(0, over_x, 0))(experts, x, keys)
    _check_tokens(experts, x.shape if over_x is None else x.shape[1:], y.shape[1:])
    return y


def _check_tokens(experts: nnx.Module, given: tuple[int, ...], got: tuple[int, ...]) -> None:
    """ValueError unless there is an output for each token: others would be spread, or taken for other tokens'."""
    if got[:-1] != given[:-1] or len(got) != len(given):
        raise ValueError(
            f"make_expert made a {type(experts).__name__} that gives the shape {got} for tokens {given}; an expert may"
            " change the last axis alone."
        )


def _of_one(linear: LinearMap, x: Float[Array, "*n d"]) -> Float[Array, "*n d2"]:
    """`linear(x)`; a plain map by a product that is a fast one for all experts at once under vmap."""
    return linear(x) if more_than_plain(linear) else apply_to_one(linear, x)


def can_be_grouped(experts: nnx.Module) -> bool:
    """Whether the experts' call takes `linear`, and so whether they can run on rows sorted by expert."""
    return "linear" in inspect.signature(experts.__call__).parameters


def few_chosen(
    experts: nnx.Module, x: Float[Array, "g t d"], routing: SparseRouting, key: Key[Array, ""] | None
) -> bool:
    """Whether choices are so few that a layer with slots had better sort them by expert, too.

    Slots are multiplied by all experts, so that all are read; of sorted rows each reads its own expert alone. Measured
    on CPUs and one device only. Not for experts that cannot be grouped or that draw: they would draw other numbers.
    """
    if jax.default_backend() != "cpu" or axes_in_use().tokens or not isinstance(routing, TopKRouting):
        return False
    choices, num_experts = math.prod(routing.experts.shape), routing.probs.shape[-1]
    if not isinstance(choices, int) or not few(choices, num_experts):  # or with an open batch size
        return False
    unread = sum(leaf.size for leaf in jax.tree.leaves(experts)) * (1 - choices / num_experts)
    return unread >= UNREAD and key is None and can_be_grouped(experts) and not _not_grouped(experts, x[0])


def apply_experts_to_groups(
    experts: nnx.Module, x: Float[Array, "n d"], groups: Groups, key: Key[Array, ""] | None = None
) -> Float[Array, "n d2"]:
    """Each expert on its own group of rows.

    `key`: for experts that draw, in training; they draw for all rows at once. Raises ValueError for experts that use a
    parameter other than in a plain linear map of their own rows: a grouped product cannot apply it.
    """
    if others := _not_grouped(experts, x):
        raise ValueError(
            f"dispatch is 'grouped', which needs experts that apply all their parameters by `linear`, as x · kernel +"
            f" bias, but {type(experts).__name__} has {', '.join(others)}; use 'gather'."
        )
    linear = partial(_grouped, groups)
    y = experts(x, linear=linear) if key is None else experts(x, linear=linear, key=key)
    _check_tokens(experts, x.shape, y.shape)
    return y


def _not_grouped(experts: nnx.Module, x: Float[Array, "n d"]) -> list[str]:
    """What a grouped product would get wrong, in words.

    That is a map that is not plain or is not applied to the rows of x, and a parameter that is read beside the maps.
    """
    maps: list[nnx.Module] = []
    others: list[str] = []
    rows = next(n for n in (3, 5, 7) if n not in x.shape[1:3])  # no other axis is as long

    def linear(linear: LinearMap, x: Array) -> Array:
        maps.append(linear)
        if x.ndim < 2 or x.shape[0] != rows:
            others.append("a call of `linear` on something else than its rows")
        y = jax.eval_shape(partial(_of_one, linear), x)  # which reads nothing
        return jnp.zeros(y.shape, y.dtype)

    def look(expert: nnx.Module, x: Array) -> Array:
        y = expert(x, linear=linear)
        inside = {id(node) for linear in maps for _, node in nnx.iter_graph(linear)}
        for path, node in nnx.iter_graph(expert):
            name = ".".join(map(str, path))
            if isinstance(node, nnx.Variable) and id(node) not in inside:
                others.append(f"{name} beside those")
            elif any(node is linear for linear in maps) and (more := more_than_plain(node)):
                others.append(f"{name} with {more}")
        return y

    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), experts)
    program = jax.make_jaxpr(look)(one, jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype)).jaxpr
    read = {*map(id, program.outvars), *(id(variable) for equation in program.eqns for variable in equation.invars)}
    for (path, _), variable in zip(jax.tree.leaves_with_path(one), program.invars, strict=False):
        name = jax.tree_util.keystr(path).removesuffix(".value").lstrip(".")
        if id(variable) in read and f"{name} beside those" not in others:
            others.append(f"{name} beside those")
    return others


def _grouped(groups: Groups, linear: LinearMap, x: Float[Array, "n *parts d"]) -> Float[Array, "n *parts d2"]:
    # An expert may cut each row into parts, such as patches: then each group has as many times more rows.
    parts = math.prod(x.shape[1:-1])
    groups = Groups(groups.starts * parts, groups.sizes * parts)
    product = partial(grouped_matmul, groups=groups)
    return apply_by(linear, x, product, lambda vectors, rows: rows_of_groups(vectors, groups, rows))
