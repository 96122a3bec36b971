"""A layer on a user's own mesh: which axes it uses, what it says of others, and that nothing is brought together."""

from functools import partial

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from reference import draw
from seldom import slow_but_for

from benchmarks.suite.crossing import bytes_crossing
from moejax import GLU, MLP, DenseMoE, MeshAxes, SoftMoE, SparseMoE, load_balance_loss
from moejax.experts import stack_experts
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
    return jax.jit(lambda: SparseMoE(d, E, make, dispatch=dispatch, mesh_axes=axes, rngs=nnx.Rngs(0), **options))()


def loss(layer, x):
    y, routing = layer(x, train=True)
    return (y**2).mean() + load_balance_loss(routing)


def on_mesh(mesh, axes, layer, x):
    """The layer's experts and the tokens sharded, all else replicated."""
    layer = jax.tree.map(jax.device_put, layer, nnx.get_named_sharding(layer, mesh))
    return layer, jax.device_put(x, NamedSharding(mesh, P(axes.others + axes.experts)))


def assert_close(got, want, tolerance=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), got, want)


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
        ("data, fsdp, expert", AUTO, "gather", "large"),
        ("a, b, c", EXPLICIT, "einsum", "small"),
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


FREE = {"zero_experts": 1, "copy_experts": 1, "constant_experts": 1, "null_experts": 2}
LAYERS = {
    "dense": DenseMoE,
    "soft": partial(SoftMoE, slots=2),
    **{dispatch: partial(SparseMoE, dispatch=dispatch) for dispatch in ("einsum", "gather", "grouped")},
    **{f"{dispatch}, skips": partial(SparseMoE, dispatch=dispatch, **FREE) for dispatch in ("gather", "grouped")},
}
DP_EP = MeshAxes(tokens=("dp", "ep"), experts="ep")


def make_small(name: str, axes: MeshAxes = DP_EP, experts: int = E) -> nnx.Module:
    return jax.jit(lambda: LAYERS[name](8, experts, partial(MLP, 8, 8), mesh_axes=axes, rngs=nnx.Rngs(0)))()


def squares(layer, x):
    return (layer(x)[0] ** 2).mean()


@pytest.mark.parametrize(
    ("name", "groups"),
    slow_but_for(
        [
            *(("grouped", G), ("grouped", 7), ("gather", 7), ("dense", G), ("soft", 7)),
            *(("gather, skips", G), ("grouped, skips", G)),
        ],
        *(("grouped", 7), ("soft", 7), ("gather, skips", G)),
    ),
)
def test_every_layer_gives_the_numbers_of_one_device(name, groups):
    layer, x, mesh = make_small(name), draw(0, groups, 4, 8), make_mesh("dp, ep", AUTO)
    step = jax.jit(jax.value_and_grad(squares, (0, 1)))
    want = step(layer, x)
    sharded, _ = on_mesh(mesh, DP_EP, layer, draw(0, G, 4, 8))
    with jax.set_mesh(mesh):
        assert_close(step(sharded, jax.device_put(x, P())), want)


@pytest.mark.parametrize("kind", slow_but_for([AUTO, EXPLICIT], EXPLICIT))
def test_the_mesh_of_sharded_arguments_is_used_as_that_of_set_mesh(kind):
    layer, x, mesh = make_small("gather"), draw(0, G, 4, 8), make_mesh("dp, ep", kind)
    step, forward = jax.jit(jax.value_and_grad(squares, (0, 1))), jax.jit(lambda layer, x: layer(x)[0])
    want = step(layer, x), forward(layer, x)
    arguments = on_mesh(mesh, DP_EP, layer, x)
    compiled = step.lower(*arguments).compile()
    assert bytes_crossing(compiled.as_text()).keys() == {"all-to-all", "all-reduce"}
    assert_close(compiled(*arguments), want[0])
    assert_close(arguments[0](arguments[1])[0], want[1])  # without jit


@pytest.mark.parametrize(
    ("name", "manual"),
    slow_but_for(
        [(name, manual) for name in LAYERS for manual in ("dp, ep", "dp")], ("gather", "dp, ep"), ("grouped", "dp")
    ),
)
def test_inside_shard_map_each_device_has_tokens_of_its_own(name, manual):
    layer, x, mesh = make_small(name), draw(0, G, 4, 8), make_mesh("dp, ep", AUTO)
    axes = tuple(manual.split(", "))

    @partial(jax.shard_map, mesh=mesh, in_specs=(P(), P(axes)), out_specs=(P(), P(axes)), axis_names={*axes})
    def gradients(layer, x):
        of_layer, of_x = jax.grad(lambda layer, x: (layer(x)[0] ** 2).sum(), (0, 1))(layer, x)
        return of_layer, of_x

    want = jax.jit(jax.grad(lambda layer, x: (layer(x)[0] ** 2).sum(), (0, 1)))(layer, x)
    assert_close(jax.jit(gradients)(layer, x), want, 1e-5)


def test_of_a_mesh_with_one_axis_its_own_name_is_advised():
    layer, x = make_small("gather", MeshAxes()), draw(0, G, 4, 8)
    for name, experts in (("expert", r"\('expert',\)"), ("data", r"\(\)")):
        sentence = rf"such as mesh_axes=MeshAxes\(tokens=\('{name}',\), experts={experts}\)"
        with jax.set_mesh(make_mesh(name, AUTO, (1,))), pytest.raises(ValueError, match=sentence):
            jax.eval_shape(layer, jax.ShapeDtypeStruct(x.shape, x.dtype))


def test_axes_that_the_mesh_has_not_are_one_sentence():
    layer, x = make_small("gather", MeshAxes()), draw(0, G, 4, 8)
    sentence = r"The mesh in use has the axes \('dp', 'ep'\), but .* such as mesh_axes=MeshAxes\(tokens=\('dp', 'ep'\),"
    mesh = make_mesh("dp, ep", AUTO)
    with pytest.raises(ValueError, match=sentence):
        layer(jax.device_put(x, NamedSharding(mesh, P("dp"))))
    for names, shape, kind in (("dp, ep", (4, 2), AUTO), ("dp, ep", (4, 2), EXPLICIT), ("data", (1,), AUTO)):
        mesh = make_mesh(names, kind, shape)
        with jax.set_mesh(mesh), pytest.raises(ValueError, match="The mesh in use has the axes"):
            jax.eval_shape(layer, jax.ShapeDtypeStruct(x.shape, x.dtype))


def test_experts_axes_that_are_not_tokens_are_one_sentence():
    sentence = r"experts is \('expert',\), .* so add them there: tokens=\('data', 'expert'\)\."
    with pytest.raises(ValueError, match=sentence):
        MeshAxes(tokens="data")


@pytest.mark.parametrize(
    ("axes", "shape", "crossing"),
    [
        pytest.param(DP_EP, (1, 1), set(), marks=pytest.mark.slow),
        pytest.param(DP_EP, (8, 1), {"all-reduce"}, marks=pytest.mark.slow),
        (MeshAxes(("dp", "ep"), ()), (4, 2), {"all-reduce"}),
    ],
)
def test_where_every_device_has_all_experts_no_slot_crosses(axes, shape, crossing):
    layer, x, mesh = make_small("gather", axes), draw(0, G, 4, 8), make_mesh("dp, ep", AUTO, shape)
    step = jax.jit(jax.value_and_grad(squares, (0, 1)))
    want = jax.tree.leaves(step(layer, x))
    with jax.set_mesh(mesh):
        arguments = on_mesh(mesh, axes, layer, x)
        compiled = step.lower(*arguments).compile()
        assert {kind for kind, size in bytes_crossing(compiled.as_text()).items() if size} == crossing
        assert_close(jax.tree.leaves(compiled(*arguments)), want)


def test_experts_tell_flax_and_an_optimiser_how_they_are_sharded():
    axes = MeshAxes(tokens=("data", "a", "b"), experts=("a", "b"))
    layer = SparseMoE(8, E, partial(GLU, 8, 8), mesh_axes=axes, rngs=nnx.Rngs(0))  # no mesh, and none is asked for
    for tree in (layer, nnx.state(layer), jax.eval_shape(lambda: layer), optax.adam(1e-3).init(layer)[0].mu):
        specs = nnx.get_partition_spec(tree)
        found = {jax.tree_util.keystr(path): spec for path, spec in jax.tree.leaves_with_path(specs)}
        assert {spec for name, spec in found.items() if "experts" in name} == {P(("a", "b"), None, None)}
        assert {spec for name, spec in found.items() if "experts" not in name} == {P()}
    state = nnx.state(nnx.Optimizer(layer, optax.adam(1e-3), wrt=nnx.Param), nnx.optimizer.OptVariable)
    assert P(("a", "b"), None, None) in jax.tree.leaves(nnx.get_partition_spec(state))


def test_an_experts_own_partition_metadata_stays():
    def make(rngs):
        return nnx.Linear(4, 4, kernel_metadata={"out_sharding": (None, "tensor"), "eager_sharding": False}, rngs=rngs)

    experts = stack_experts(make, E, nnx.Rngs(0))
    assert nnx.get_partition_spec(experts).kernel.get_value() == P("expert", None, "tensor")
    assert nnx.get_partition_spec(experts).bias.get_value() == P("expert", None)


def test_a_mesh_is_left_alone_by_who_names_no_axes():
    layer, x = make_small("gather", MeshAxes((), ())), draw(0, G, 4, 8)
    with jax.set_mesh(make_mesh("dp, ep", AUTO)):
        program = jax.make_jaxpr(layer)(x)
    assert "sharding_constraint" not in str(program)
