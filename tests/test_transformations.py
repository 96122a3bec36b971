"""Layers under JAX's transformations: every router and dispatch, at sizes on both sides of every choice of kernel."""

import contextlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from reference import draw
from seldom import slow_but_for

from moejax import losses, metrics
from moejax.experts import MLP
from moejax.layers import DenseMoE, SoftMoE, SparseMoE
from moejax.routers import ROUTERS
from moejax.routing import DenseRouting, ExpertChoiceRouting, TopKRouting
from moejax.sharding import MeshAxes

D, H, E = 6, 8, 4
OF_LAYER = {"dense": (DenseMoE, {}), "soft": (SoftMoE, {"slots": 2})}
OF_LAYER |= {
    f"{router} {dispatch}": (SparseMoE, {"router": router, "dispatch": dispatch, "k": 1 if router == "switch" else 2})
    for router in ROUTERS
    for dispatch in ("einsum", "gather", "grouped")
    if (router, dispatch) != ("expert_choice", "grouped")
}
OF_LAYER |= {"groups of 7": (SparseMoE, {"group_size": 7}), "groups of 4": (SparseMoE, {"group_size": 4})}
FEW = ("dense", "soft", "softmax_top_k einsum", "softmax_top_k gather", "softmax_top_k grouped")


def make(name, d=D, h=H, **options):
    layer, chosen = OF_LAYER[name]
    return jax.jit(lambda: layer(d, E, lambda rngs: MLP(d, h, rngs=rngs), rngs=nnx.Rngs(0), **chosen | options))()


def assert_close(got, want, tolerance=1e-4):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), got, want)


def squares(layer, x, mask=None):
    y, _ = layer(x, mask=mask)
    return (y**2).sum()


@pytest.mark.parametrize(
    ("name", "least"),
    slow_but_for(
        [(name, least) for name in FEW for least in (0, np.inf)],
        ("softmax_top_k gather", np.inf),
    ),
)
def test_forward_mode_agrees_with_reverse_mode_at_all_sizes(name, least, monkeypatch):
    monkeypatch.setattr("moejax.kernels.slots.LARGE", least)
    layer, x = make(name), draw(0, 3, 5, D)
    graph, parameters, rest = nnx.split(layer, nnx.Param, ...)

    def f(parameters, x):
        return jnp.sin(nnx.merge(graph, parameters, rest)(x)[0]).sum()

    at = parameters, x
    along = jax.tree.map(lambda a: draw(a.size, *a.shape), at)

    @jax.jit
    def slopes(at, along):
        forward = jax.jvp(f, at, along)[1]
        gradients, changes = jax.jvp(jax.grad(f, (0, 1)), at, along)
        return forward, gradients, changes

    def dot(a, b):
        return sum(jnp.vdot(p, q) for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    forward, gradients, changes = slopes(at, along)
    assert_close(forward, dot(gradients, along))
    # The Hessian is symmetric: forward over reverse equals reverse over reverse.
    assert_close(changes, jax.jit(jax.grad(lambda at: dot(jax.grad(f, (0, 1))(*at), along)))(at), 1e-3)


@pytest.mark.parametrize("name", ["softmax_top_k gather", "softmax_top_k grouped"])
def test_no_activation_is_scattered_on_the_way_back(name):
    layer, x = make(name), draw(0, 3, 5, D)
    text = jax.jit(jax.grad(squares, (0, 1))).lower(layer, x).as_text()
    types = [line for line in text.splitlines() if "stablehlo.scatter" in line or "}) : (" in line]
    assert not [line for line in types if f"x{D}xf32>, tensor<" in line and "xi32>, tensor<" in line], types


def useful(routing):
    """The losses that such a routing has."""
    found = [losses.importance_loss, losses.entropy_loss, losses.usage_loss]
    if isinstance(routing, DenseRouting | TopKRouting | ExpertChoiceRouting):
        found.append(losses.router_z_loss)
        found.append(lambda r: losses.assignment_loss(r, jnp.zeros(r.probs.shape[:2], jnp.int32)))
    if isinstance(routing, TopKRouting):
        found += [losses.load_balance_loss, partial(losses.load_balance_loss, over="sequence")]
        found += [losses.load_loss, losses.sparsity_loss]
    found += [
        metrics.dropped,
        metrics.gate_entropy,
        metrics.confidence,
        metrics.experts_per_token,
        lambda r: metrics.max_violation(metrics.load(r)),
    ]
    return found


@pytest.mark.parametrize("name", slow_but_for(OF_LAYER, *FEW))
def test_no_dtype_is_promoted_implicitly(name):
    layer, x, mask = make(name), draw(0, 3, 5, D), jnp.ones((3, 5), bool)

    def everything(layer, x, mask):
        y, routing = layer(x, mask=mask, train=True, key=jax.random.key(0))
        return (y**2).sum() + sum(f(routing) for f in useful(routing))

    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(jax.value_and_grad(everything, (0, 1), allow_int=True), layer, x, mask)


OURS, THEIRS = ("data", "expert"), ("dp", "ep")


@pytest.mark.parametrize(
    ("name", "axes"),
    slow_but_for(
        [(name, axes) for name in OF_LAYER for axes in (OURS, THEIRS)],
        ("softmax_top_k grouped", THEIRS),
    ),
)
def test_explicit_axes_give_the_same_numbers_and_outputs_lie_as_the_tokens_do(name, axes):
    layer = make(name, mesh_axes=MeshAxes(axes, axes[1]))
    x, mask = draw(0, 8, 5, D), jnp.asarray(draw(1, 8, 5) > -0.5)
    want = jax.jit(jax.value_and_grad(squares, (0, 1), allow_int=True))(layer, x, mask)
    mesh = jax.make_mesh((4, 2), axes, axis_types=(AxisType.Explicit,) * 2, devices=jax.devices())

    def put(tree, *spec):
        return jax.tree.map(lambda a: jax.device_put(a, NamedSharding(mesh, P(*spec))), tree)

    placed = put(layer)
    placed.experts = put(layer.experts, axes[1])
    tokens = put(x, axes[0]), put(mask, axes[0])
    for context in (contextlib.nullcontext(), jax.set_mesh(mesh)):
        with context:
            y, _ = jax.jit(lambda layer, x, mask: layer(x, mask=mask))(placed, *tokens)
            assert jax.typeof(y).sharding.spec == P(axes[0], None, None)
            got = jax.jit(jax.value_and_grad(squares, (0, 1), allow_int=True))(placed, *tokens)
            assert_close(got, want)


@pytest.mark.parametrize(
    ("name", "check_vma"),
    slow_but_for(
        [
            (f"softmax_top_k {dispatch}", check)
            for dispatch in ("einsum", "gather", "grouped")
            for check in (True, False)
        ],
        ("softmax_top_k grouped", True),
    ),
)
def test_within_a_users_shard_map(name, check_vma):
    layer, x = make(name), draw(0, 8, 5, D)
    want = jax.jit(jax.grad(squares, (0, 1)))(layer, x)
    mesh = jax.make_mesh((4,), ("devices",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    where = P(), P("devices")

    @partial(jax.shard_map, mesh=mesh, in_specs=where, out_specs=where, check_vma=check_vma)
    def gradients(layer, x):
        of_layer, of_x = jax.grad(squares, (0, 1))(layer, x)
        return (of_layer if check_vma else jax.lax.psum(of_layer, "devices")), of_x

    assert_close(jax.jit(gradients)(layer, x), want)
