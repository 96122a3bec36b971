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

WHOLE = P()  # a copy on every device
TOKENS = P(DEVICES)
SLOTS_BY_TOKEN = P(None, DEVICES)
SLOTS_BY_EXPERT = P(EXPERT, DATA)
EXPERTS = P(EXPERT)


def make_mesh(data: int, expert: int, devices: Sequence[jax.Device]) -> Mesh:
    """The mesh of data × expert devices; those that share experts' tokens, along `expert`, are next to each other."""
    return jax.make_mesh((data, expert), DEVICES, axis_types=(AxisType.Auto, AxisType.Auto), devices=devices)


def devices_in_use() -> int:
    """How many devices the mesh in use has; 1 without one, and for a program that each device runs by itself."""
    mesh = jax.sharding.get_abstract_mesh()
    ours = mesh.axis_names == DEVICES and all(kind == AxisType.Auto for kind in mesh.axis_types)
    return mesh.size if ours else 1


def on_explicit_axes(call: Callable) -> Callable:
    """Let a layer's `call(layer, x, ...)` take arrays on a mesh with Explicit axes, as `jax.make_mesh` makes them.

    There the layout of every array is part of its type, and each gather would have to say the one of its result. Inside
    the axes are Auto, as on other meshes; outputs lie as the tokens do, a routing along its groups.
    """

    @partial(jax.jit, static_argnames=("train",))
    def on_auto_axes(layer: PyTree, x: Shaped[Array, "..."], **options: Any) -> tuple[Array, PyTree]:
        mesh = _mesh_of(x)
        auto = tuple(AxisType.Auto if kind == AxisType.Explicit else kind for kind in mesh.axis_types)
        with jax.sharding.use_abstract_mesh(AbstractMesh(mesh.axis_sizes, mesh.axis_names, axis_types=auto)):
            layer, inside, options = jax.tree.map(_without_layout, (layer, x, options))
            y, routing = call(layer, inside, **options)
        tokens = (*jax.typeof(x).sharding.spec, *[None] * x.ndim)[: x.ndim - 1]
        groups = P(tokens[0]) if routing.logits.shape[0] == x.shape[0] else WHOLE
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
    return jax.sharding.reshard(a, WHOLE) if isinstance(a, jax.Array) else a


def lay_out(tree: PyTree[Shaped[Array, "..."]], spec: P) -> PyTree[Shaped[Array, "..."]]:
    """The same arrays, laid out so."""
    if devices_in_use() == 1:
        return tree
    return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, spec), tree)


def whole(program: Callable) -> Callable:
    """`program(model, batch)`, on a mesh with results whole on every device: every process can read them."""
    if devices_in_use() == 1:
        return program
    on_mesh = jax.jit(program, out_shardings=WHOLE)
    return lambda model, batch: on_mesh(model, deal_out(batch))


def deal_out(host: PyTree[Shaped[ndarray, "b ..."]]) -> PyTree[Shaped[Array, "b ..."]]:
    """Arrays that every process has, on the mesh in use: each device is brought its own rows, or all of them where they
    cannot be dealt out evenly.
    """
    rows = len(jax.tree.leaves(host)[0])
    where = NamedSharding(jax.sharding.get_mesh(), TOKENS if deals_out(rows) else WHOLE)
    return jax.tree.map(lambda a: jax.make_array_from_callback(a.shape, where, lambda part: a[part]), host)


def deals_out(groups: int) -> bool:
    """Whether there is a mesh in use, each of whose devices gets as many of the groups (or of other rows)."""
    return devices_in_use() > 1 and groups % devices_in_use() == 0


def on_each_device(f: Callable, groups: int, *, takes: PyTree[P], gives: PyTree[P]) -> Callable[..., Any]:
    """`f` on each device's own part of the arrays, so that index tables stay within it.

    The identity where the groups cannot be dealt out evenly: right as well, but then indices reach across devices.
    """
    if not deals_out(groups):
        return f
    return jax.shard_map(f, in_specs=takes, out_specs=gives, check_vma=False)
