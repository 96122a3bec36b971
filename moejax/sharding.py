"""Where a layer's arrays lie on a mesh of devices.

    tokens  [g, ...]      groups over all of tokens' axes                  x, logits, a routing
    slots   [e, g, c, d]  as tokens; or experts over experts' axes and groups over the other ones
    experts [e, ...]      over experts' axes, replicated along the other ones

From one sharding of the slots to the other is an all-to-all along experts' axes: the only time that activations cross.
`MeshAxes` says which axes of a mesh these are. Without a mesh in use all of this is the identity.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree, Shaped
from numpy import ndarray

# Of roles instead of a mesh's own names, which `MeshAxes.spec` puts in their place.
REPLICATED = P()
TOKENS = P("tokens")
SLOTS_BY_TOKEN = P(None, "tokens")
SLOTS_BY_EXPERT = P("experts", "others")
EXPERTS = P("experts")


@dataclass(frozen=True)
class MeshAxes:
    """Which axes of a mesh tokens and experts are sharded over: for each a name, several, or none, `()`.

    Experts' axes are some of tokens': tokens cross along them. A layer takes any mesh that has these axes, Auto or
    Explicit, of `jax.set_mesh` or else of its arguments. Inside `jax.shard_map`, axes that are Manual are left alone:
    there each device has tokens of its own and, along those axes, all experts.

    Raises ValueError, in one sentence, for what are no names, and for experts' axes that are not among tokens'.
    """

    tokens: str | tuple[str, ...] = ("data", "expert")
    experts: str | tuple[str, ...] = "expert"

    def __post_init__(self):
        for field in ("tokens", "experts"):
            value = getattr(self, field)
            names = (value,) if isinstance(value, str) else value
            if not (isinstance(names, tuple | list) and all(isinstance(name, str) for name in names)):
                raise ValueError(f"{field} is {value!r}; it must be the name of a mesh axis, or a tuple of names.")
            if len(set(names)) < len(names):
                raise ValueError(f"{field} is {value!r}, which names an axis twice; name each once.")
            object.__setattr__(self, field, tuple(names))
        if not {*self.experts} <= {*self.tokens}:
            both = MeshAxes(tokens=(*self.tokens, *(a for a in self.experts if a not in self.tokens)))
            raise ValueError(
                f"experts is {self.experts}, not all of which are in tokens, {self.tokens}; tokens cross between the"
                f" devices that share the experts, so add them there: tokens={both.tokens}."
            )

    @property
    def others(self) -> tuple[str, ...]:
        """Tokens' axes along which experts are replicated."""
        return tuple(name for name in self.tokens if name not in self.experts)

    def spec(self, of_roles: P) -> P:
        """A mesh's own names in place of `tokens`, `experts` and `others`."""
        # Devices that share experts take consecutive groups, so that one all-to-all turns the slots.
        names = {"tokens": self.others + self.experts, "experts": self.experts, "others": self.others}
        return P(*(names[role] if role else None for role in of_roles))

    def on(self, mesh: AbstractMesh) -> "MeshAxes":
        """Those axes that are the compiler's to shard over and not Manual; none without a mesh.

        Raises ValueError, in one sentence, where the mesh has no axes of these names.
        """
        left = _not_manual(mesh)
        if left and not {*self.tokens} <= {*mesh.axis_names}:
            experts = tuple(name for name in mesh.axis_names if name in self.experts)
            fix = MeshAxes(mesh.axis_names, experts or mesh.axis_names[1:][-1:])
            raise ValueError(
                f"The mesh in use has the axes {mesh.axis_names}, but the layer's {self} names others; name the mesh's"
                f" own, such as mesh_axes={fix}, or none, mesh_axes=MeshAxes((), ())."
            )
        return MeshAxes(*(tuple(name for name in names if name in left) for names in (self.tokens, self.experts)))


DEFAULT_AXES = MeshAxes()
_LAYERS_AXES = ContextVar("_LAYERS_AXES", default=None)


def _not_manual(mesh: AbstractMesh) -> tuple[str, ...]:
    return tuple(a for a, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind != AxisType.Manual)


@contextmanager
def _layers(axes: MeshAxes) -> Iterator[None]:
    """Inside, functions of this module use a layer's axes; elsewhere the default ones, where a mesh has them."""
    before = _LAYERS_AXES.set(axes)
    try:
        yield
    finally:
        _LAYERS_AXES.reset(before)


def axes_in_use() -> MeshAxes:
    """The axes to shard over by `constrain` and `shard_map_groups`."""
    if axes := _LAYERS_AXES.get():
        return axes
    mesh = jax.sharding.get_abstract_mesh()
    ours = {*DEFAULT_AXES.tokens} <= {*mesh.axis_names} and AxisType.Explicit not in mesh.axis_types
    return DEFAULT_AXES.on(mesh) if ours else MeshAxes((), ())


def devices_along(axes: Sequence[str]) -> int:
    """How many devices these axes of the mesh in use have together."""
    return math.prod(jax.sharding.get_abstract_mesh().shape[name] for name in axes)


def over_mesh(call: Callable) -> Callable:
    """Let a layer's `call(layer, x, ...)` use a mesh by its `mesh_axes`.

    The mesh is that of `jax.set_mesh`, or else the one on which an argument lies. Explicit axes, of which an array's
    sharding is part of its type, are Auto inside: else every gather would have to name the sharding of its result. With
    them the output is sharded as `x` is, the routing by group.
    """

    @partial(jax.jit, static_argnames=("mesh", "train"))
    def on_mesh(layer: PyTree, x: Shaped[Array, "..."], *, mesh: AbstractMesh, **options: Any) -> tuple[Array, PyTree]:
        auto = mesh.update_axis_types(dict.fromkeys(_not_manual(mesh), AxisType.Auto))
        with jax.sharding.use_abstract_mesh(auto), _layers(layer.mesh_axes.on(mesh)):
            if auto == mesh:
                return call(layer, x, **options)
            layer, inside, options = jax.tree.map(_on_auto_axes, (layer, x, options))
            y, routing = call(layer, inside, **options)
            count = len(jax.tree.leaves(routing)[0])
            groups = axes_in_use().spec(TOKENS if divides_evenly(count) else REPLICATED)
        tokens = (*jax.typeof(x).sharding.spec, *[None] * x.ndim)[: x.ndim - 1]
        of_tasks = [None] * (y.ndim - x.ndim)  # the outputs of several tasks are stacked
        specs = P(*of_tasks, *tokens), jax.tree.map(lambda _: groups, routing)
        return jax.sharding.reshard((y, routing), jax.tree.map(partial(NamedSharding, mesh), specs))

    @wraps(call)
    def on_any_mesh(layer: PyTree, x: Shaped[Array, "..."], **options: Any) -> tuple[Array, PyTree]:
        mesh = _mesh_of((x, layer, options))
        if not layer.mesh_axes.on(mesh).tokens and AxisType.Explicit not in mesh.axis_types:
            return call(layer, x, **options)
        return on_mesh(layer, x, mesh=mesh, **options)

    return on_any_mesh


def _on_auto_axes(a: Any) -> Any:
    return jax.sharding.reshard(a, REPLICATED) if isinstance(a, jax.Array) else a


def _mesh_of(arguments: PyTree) -> AbstractMesh:
    mesh = jax.sharding.get_abstract_mesh()
    arrays = (a for a in jax.tree.leaves(arguments) if isinstance(a, jax.Array))
    own = (jax.typeof(a).sharding.mesh for a in arrays)
    return next((own for own in own if not own.empty), mesh) if mesh.empty else mesh


def constrain(tree: PyTree[Shaped[Array, "..."]], spec: P) -> PyTree[Shaped[Array, "..."]]:
    """The same arrays, with a sharding constraint; `spec` is of roles."""
    axes = axes_in_use()
    if not axes.tokens:
        return tree
    return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, axes.spec(spec)), tree)


def all_gathered(tree: PyTree[Shaped[Array, "..."]]) -> PyTree[Shaped[Array, "..."]]:
    """The same arrays, along Explicit axes brought onto every device: then JAX lets them be reshaped and scattered."""

    def whole(a: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        return jax.sharding.reshard(a, REPLICATED) if any(jax.typeof(a).sharding.spec) else a

    return jax.tree.map(whole, tree)


def divides_evenly(groups: int) -> bool:
    """Whether a mesh is in use and the devices that tokens are sharded over divide the number of groups."""
    axes = axes_in_use()
    return bool(axes.tokens) and groups % devices_along(axes.tokens) == 0


def shard_map_axes(groups: int, experts: int | None = None) -> MeshAxes:
    """The axes for a `shard_map` of so many groups, and experts if the function takes them; none where it cannot be."""
    axes = axes_in_use()
    whole_experts = experts is None or experts % devices_along(axes.experts) == 0
    # JAX cannot differentiate every one inside a user's over some of the axes.
    inside = AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types
    return axes if divides_evenly(groups) and whole_experts and not inside else MeshAxes((), ())


def shard_map_groups(f: Callable, axes: MeshAxes, *, takes: PyTree[P], gives: PyTree[P]) -> Callable[..., Any]:
    """`f` under `shard_map`, so that its indices stay within a device's own groups; specs are of roles.

    `f` itself where there are no axes: also right, but then indices reach across devices.
    """
    if not axes.tokens:
        return f
    takes, gives = jax.tree.map(axes.spec, (takes, gives))
    return jax.shard_map(f, in_specs=takes, out_specs=gives)


# For runs


def make_mesh(data: int, expert: int, devices: Sequence[jax.Device]) -> Mesh:
    """A mesh of data × expert devices. Those along `expert`, which exchange slots, are next to each other."""
    return jax.make_mesh((data, expert), DEFAULT_AXES.tokens, axis_types=(AxisType.Auto,) * 2, devices=devices)


def replicated(program: Callable) -> Callable:
    """`program(model, batch)` on the mesh in use: the batch is sharded, the results are replicated.

    So every process can read them.
    """
    if not axes_in_use().tokens:
        return program
    on_mesh = jax.jit(program, out_shardings=REPLICATED)
    return lambda model, batch: on_mesh(model, shard_batch(batch))


def shard_batch(host: PyTree[Shaped[ndarray, "b ..."]]) -> PyTree[Shaped[Array, "b ..."]]:
    """A batch that every process has, on the mesh in use: sharded by row, or replicated if the rows do not divide."""
    rows = len(jax.tree.leaves(host)[0])
    spec = axes_in_use().spec(TOKENS if divides_evenly(rows) else REPLICATED)
    where = NamedSharding(jax.sharding.get_mesh(), spec)
    return jax.tree.map(lambda a: jax.make_array_from_callback(a.shape, where, lambda part: a[part]), host)
