"""A mesh of devices with two named axes, and where a layer's arrays lie on it.

    tokens  [g, ...]      groups over all devices                       x, logits, what a router decides
    slots   [e, g, c, d]  as the tokens, or experts over `expert` and groups over `data`
    experts [e, ...]      over `expert`, copied along `data`

From one layout of the slots to the other is an all-to-all along `expert`: the only time that activations cross. Layers
say where an array should lie and know no devices; without a mesh in use (`jax.set_mesh`) all of this is the identity.
"""

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree, Shaped
from numpy import ndarray

DATA, EXPERT = "data", "expert"
DEVICES = (DATA, EXPERT)

REPLICATED = P()
TOKENS = P(DEVICES)
SLOTS_BY_TOKEN = P(None, DEVICES)
SLOTS_BY_EXPERT = P(EXPERT, DATA)
EXPERTS = P(EXPERT)


def make_mesh(data: int, expert: int, devices: Sequence[jax.Device]) -> Mesh:
    """A mesh of data × expert devices. Those along `expert`, which exchange slots, are next to each other."""
    return jax.make_mesh((data, expert), DEVICES, axis_types=(AxisType.Auto, AxisType.Auto), devices=devices)


def devices_in_use() -> int:
    """How many devices the mesh in use has; 1 without a mesh, and inside `jax.shard_map`."""
    mesh = jax.sharding.get_abstract_mesh()
    ours = mesh.axis_names == DEVICES and all(kind == AxisType.Auto for kind in mesh.axis_types)
    return mesh.size if ours else 1


def on_explicit_axes(call: Callable) -> Callable:
    """Let a layer's `call(layer, x, ...)` take arrays on a mesh with Explicit axes, which `jax.make_mesh` makes.

    On such axes an array's sharding is part of its type, and every gather would have to name that of its result. So
    the call runs with Auto axes. Its output is sharded as the tokens are, its routing by group.
    """

    @partial(jax.jit, static_argnames=("train",))
    def on_auto_axes(layer: PyTree, x: Shaped[Array, "..."], **options: Any) -> tuple[Array, PyTree]:
        mesh = _mesh_of(x)
        auto = tuple(AxisType.Auto if kind == AxisType.Explicit else kind for kind in mesh.axis_types)
        with jax.sharding.use_abstract_mesh(AbstractMesh(mesh.axis_sizes, mesh.axis_names, axis_types=auto)):
            layer, inside, options = jax.tree.map(_without_layout, (layer, x, options))
            y, routing = call(layer, inside, **options)
        tokens = (*jax.typeof(x).sharding.spec, *[None] * x.ndim)[: x.ndim - 1]
        groups = P(tokens[0]) if routing.logits.shape[0] == x.shape[0] else REPLICATED
        places = P(*tokens), jax.tree.map(lambda _: groups, routing)
        return jax.sharding.reshard((y, routing), jax.tree.map(partial(NamedSharding, mesh), places))

    @wraps(call)
    def on_any_axes(layer: PyTree, x: Shaped[Array, "..."], **options: Any) -> tuple[Array, PyTree]:
        explicit = isinstance(x, jax.Array | ndarray) and AxisType.Explicit in _mesh_of(x).axis_types
        return (on_auto_axes if explicit else call)(layer, x, **options)

    return on_any_axes


def _mesh_of(x: Shaped[Array, "..."]) -> AbstractMesh:
    own = jax.typeof(x).sharding.mesh
    return jax.sharding.get_abstract_mesh() if own.empty else own


def _without_layout(a: Any) -> Any:
    return jax.sharding.reshard(a, REPLICATED) if isinstance(a, jax.Array) else a


def constrain(tree: PyTree[Shaped[Array, "..."]], spec: P) -> PyTree[Shaped[Array, "..."]]:
    """The same arrays, with a sharding constraint."""
    if devices_in_use() == 1:
        return tree
    return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, spec), tree)


def replicated(program: Callable) -> Callable:
    """`program(model, batch)` on the mesh in use: the batch is sharded, the results are replicated.

    So every process can read them.
    """
    if devices_in_use() == 1:
        return program
    on_mesh = jax.jit(program, out_shardings=REPLICATED)
    return lambda model, batch: on_mesh(model, shard_batch(batch))


def shard_batch(host: PyTree[Shaped[ndarray, "b ..."]]) -> PyTree[Shaped[Array, "b ..."]]:
    """A batch that every process has, on the mesh in use: sharded by row, or replicated if the rows do not divide."""
    rows = len(jax.tree.leaves(host)[0])
    where = NamedSharding(jax.sharding.get_mesh(), TOKENS if divides_evenly(rows) else REPLICATED)
    return jax.tree.map(lambda a: jax.make_array_from_callback(a.shape, where, lambda part: a[part]), host)


def divides_evenly(groups: int) -> bool:
    """Whether a mesh of several devices is in use and their number divides that of the groups."""
    return devices_in_use() > 1 and groups % devices_in_use() == 0


def shard_map_groups(f: Callable, groups: int, *, takes: PyTree[P], gives: PyTree[P]) -> Callable[..., Any]:
    """`f` under `shard_map`, so that its indices stay within a device's own groups.

    `f` itself where the groups do not divide evenly: also right, but then indices reach across devices.
    """
    if not divides_evenly(groups):
        return f
    return jax.shard_map(f, in_specs=takes, out_specs=gives, check_vma=False)
