"""A layer on a user's own mesh: which axes it uses, what it says of others, and that nothing is brought together."""

from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from reference import draw

from benchmarks.suite.crossing import bytes_crossing
from moejax import MLP, MeshAxes, SparseMoE, load_balance_loss
from moejax.kernels import slots

E, G = 8, 16  # experts, groups
EXPLICIT, AUTO = AxisType.Explicit, AxisType.Auto
MESHES = {
    "dp, ep": ((4, 2), MeshAxes(tokens=("dp", "ep"), experts="ep")),
    "data, fsdp, expert": ((2, 2, 2), MeshAxes(tokens=("data", "fsdp", "expert"), experts="expert")),
    "expert, data": ((4, 2), MeshAxes()),
    "a, b, c": ((2, 2, 2), MeshAxes(tokens=("b", "a", "c"), experts=("a", "c"))),
}
SIZES = {"small": (4, 8, 8), "large": (128, 128, 512)}  # tokens of a group, widths


def make_mesh(names: str, kind: AxisType, shape: tuple[int, ...] | None = None) -> jax.sharding.Mesh:
    names = tuple(names.split(", "))
    shape = shape or MESHES[", ".join(names)][0]
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(names), devices=jax.devices()[: np.prod(shape)])


def make_layer(dispatch: str, axes: MeshAxes, size: str = "small", **options) -> SparseMoE:
    _, d, h = SIZES[size]
    make = partial(MLP, d, h)
    return SparseMoE(d, E, make, dispatch=dispatch, mesh_axes=axes, rngs=nnx.Rngs(0), **options)


def loss(layer, x):
    y, routing = layer(x, train=True)
    return (y**2).mean() + load_balance_loss(routing)


def on_mesh(mesh, axes, layer, x):
    """The layer's experts and the tokens sharded, all else replicated."""
    layer = jax.tree.map(jax.device_put, layer, nnx.get_named_sharding(layer, mesh))
    return layer, jax.device_put(x, NamedSharding(mesh, P(axes.others + axes.experts)))


def assert_close(got, want, tolerance=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), got, want)


def slow_but_for(cells, *few):
    return [cell if cell in few else pytest.param(*cell, marks=pytest.mark.slow) for cell in cells]


@pytest.mark.parametrize(
    ("names", "kind", "dispatch", "size"),
    slow_but_for(
        [
            (names, kind, dispatch, size)
            for names in MESHES
            for kind in (AUTO, EXPLICIT)
            for dispatch in ("einsum", "gather")
            for size in SIZES
        ],
        ("dp, ep", AUTO, "gather", "large"),
        ("dp, ep", EXPLICIT, "einsum", "small"),
        ("data, fsdp, expert", AUTO, "einsum", "small"),
        ("data, fsdp, expert", EXPLICIT, "gather", "large"),
        ("expert, data", AUTO, "gather", "small"),
        ("expert, data", EXPLICIT, "einsum", "large"),
        ("a, b, c", AUTO, "gather", "small"),
    ),
)
def test_slots_cross_in_all_to_alls_and_nothing_is_gathered(names, kind, dispatch, size):
    t, d, h = SIZES[size]
    axes, mesh = MESHES[names][1], make_mesh(names, kind)
    layer, x = make_layer(dispatch, axes, size), draw(0, G, t, d)
    slots_flops = 2 * E * G * layer.capacity(t, train=True) * d * h
    assert (slots_flops > slots.LARGE) == (size == "large")
    step = jax.jit(jax.value_and_grad(loss, (0, 1)))
    want = step(layer, x)
    with jax.set_mesh(mesh):
        compiled = step.lower(*on_mesh(mesh, axes, layer, x)).compile()
        crossing = bytes_crossing(compiled.as_text())
        assert crossing["all-to-all"] > 0
        assert crossing.keys() <= {"all-to-all", "all-reduce"}
        assert_close(compiled(*on_mesh(mesh, axes, layer, x)), want)
