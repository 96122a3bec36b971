"""A gate for each task: by hand, against a loop over tasks and tokens, and beside the dense layer that it extends."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from reference import draw
from seldom import slow_but_for

import moejax
from moejax import metrics
from moejax.experts import MLP
from moejax.layers import DenseMoE
from moejax.multi_gate import MultiGateMoE
from moejax.sharding import MeshAxes

D, H, E, TASKS = 5, 7, 3, 2


def make(num_tasks=TASKS, **options):
    expert = partial(MLP, D, H)
    return reference.randomly_filled(
        lambda: MultiGateMoE(D, E, lambda rngs: expert(rngs=rngs), num_tasks=num_tasks, rngs=nnx.Rngs(0), **options)
    )


@jax.jit
def call(layer, x, mask=None):
    return layer(x, mask=mask)


@jax.jit
def gradients(layer, x, cotangent, mask=None):
    return jax.grad(lambda layer, x: jnp.sum(layer(x, mask=mask)[0] * cotangent), (0, 1))(layer, x)


def parameters(layer):
    """In float64, as the reference takes them; the routers of all tasks are stacked."""
    mlps = layer.experts
    named = {"routers": jnp.stack([router.kernel[...] for router in layer.routers])}
    named |= {"up": mlps.up.kernel, "up_bias": mlps.up.bias, "down": mlps.down.kernel, "down_bias": mlps.down.bias}
    return {name: np.asarray(value[...], np.float64) for name, value in named.items()}


def slow(p, x):
    """A dense layer's loop over tokens for each task."""
    return np.stack([reference.dense_moe(p | {"router": router}, x) for router in p["routers"]])


class Scaled(nnx.Module):
    """A token times a number, which is e + 1 for expert e."""

    def __init__(self, rngs):
        self.factor = nnx.Param(jnp.zeros(()))

    def __call__(self, x):
        return self.factor[...] * x


def test_by_hand():
    layer = MultiGateMoE(1, 2, lambda rngs: Scaled(rngs), num_tasks=2, rngs=nnx.Rngs(0))
    layer.experts.factor[...] = jnp.array([1.0, 2.0])
    # Of the token 1: task 0 weighs the experts 3 : 1, task 1 one to one. Of the token 2: the squares of that.
    layer.routers[0].kernel[...], layer.routers[1].kernel[...] = jnp.log(jnp.array([[3.0, 1.0]])), jnp.zeros((1, 2))
    y, (first, second) = layer(jnp.array([[1.0], [2.0]]))
    np.testing.assert_allclose(first.gates, [[[3 / 4, 1 / 4], [9 / 10, 1 / 10]]], rtol=1e-6)
    np.testing.assert_allclose(second.gates, [[[1 / 2, 1 / 2], [1 / 2, 1 / 2]]], rtol=1e-6)
    np.testing.assert_allclose(y, [[[1.25], [2 * 1.1]], [[1.5], [2 * 1.5]]], rtol=1e-6)


def test_it_equals_a_loop_over_tasks_and_tokens_and_so_do_its_gradients():
    layer, x, rng = make(), draw(0, 2, 4, D), np.random.default_rng(1)
    cotangent = rng.normal(size=(TASKS, *x.shape))
    y, routings = call(layer, x)
    values = parameters(layer) | {"x": np.asarray(x, np.float64)}

    def f(values):
        return slow({name: value for name, value in values.items() if name != "x"}, values["x"])

    np.testing.assert_allclose(y, f(values), rtol=1e-4, atol=1e-5)
    assert [routing.probs.shape for routing in routings] == [(2, 4, E)] * TASKS
    of_layer, of_x = gradients(layer, x, jnp.asarray(cotangent, jnp.float32))
    got = parameters(of_layer) | {"x": np.asarray(of_x, np.float64)}
    for name, value in values.items():
        direction, step = rng.normal(size=value.shape), 1e-5
        ahead, behind = (np.sum(f(values | {name: value + s * direction}) * cotangent) for s in (step, -step))
        np.testing.assert_allclose(np.sum(got[name] * direction), (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"learn_temperature": True}, {"dtype": jnp.bfloat16}])
def test_with_one_task_it_is_the_dense_layer_bit_by_bit(options):
    def start(kind, **tasks):
        return kind(D, E, lambda rngs: MLP(D, H, rngs=rngs), rngs=nnx.Rngs(3), **options, **tasks)

    dense, one, x, cotangent = start(DenseMoE), start(MultiGateMoE, num_tasks=1), draw(0, 2, 4, D), draw(1, 2, 4, D)
    cotangent = cotangent.astype(options.get("dtype", jnp.float32))
    (want, want_routing), (y, (routing,)) = call(dense, x), call(one, x)
    np.testing.assert_array_equal(y, want[None])
    jax.tree.map(np.testing.assert_array_equal, routing, want_routing)
    (dense_gradient, want_x), (gradient, got_x) = gradients(dense, x, cotangent), gradients(one, x, cotangent[None])
    np.testing.assert_array_equal(got_x, want_x)
    jax.tree.map(np.testing.assert_array_equal, gradient.experts, dense_gradient.experts)
    jax.tree.map(np.testing.assert_array_equal, gradient.routers[0], dense_gradient.router)


def test_padding_is_zeros_and_reaches_no_task():
    layer, x, mask = make(), draw(0, 2, 4, D), jnp.array([[True, True, False, True], [False, True, True, True]])
    spoilt = jnp.where(mask[..., None], x, jnp.nan)
    y, routings = call(layer, spoilt, mask)
    want, _ = call(layer, x)
    np.testing.assert_allclose(y, jnp.where(mask[None, ..., None], want, 0), rtol=1e-5, atol=1e-6)
    assert all((routing.gates[~mask] == 0).all() for routing in routings)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients(layer, spoilt, jnp.ones_like(y), mask)))


def test_any_batch_and_another_input_of_the_gates():
    layer, x, other = make(), draw(0, 3, 2, 4, D), draw(1, 3, 2, 4, D)
    y, routings = jax.jit(lambda layer: layer(x, router_input=other))(layer)
    assert y.shape == (TASKS, 3, 2, 4, D)
    assert routings[0].gates.shape == (6, 4, E)
    _, want = call(layer, other)
    jax.tree.map(np.testing.assert_array_equal, routings, want)
    alone, _ = call(layer, x[0, 0])
    assert alone.shape == (TASKS, 4, D)


@pytest.mark.parametrize("kind", slow_but_for([AxisType.Auto, AxisType.Explicit], AxisType.Explicit))
def test_on_a_mesh_it_gives_the_same_numbers_and_each_output_lies_as_the_tokens_do(kind):
    axes = ("dp", "ep")
    layer = MultiGateMoE(
        D,
        4,
        lambda rngs: MLP(D, H, rngs=rngs),
        num_tasks=TASKS,
        mesh_axes=MeshAxes(axes, "ep"),
        rngs=nnx.Rngs(0),
    )
    x, cotangent = draw(0, 8, 5, D), draw(1, TASKS, 8, 5, D)
    want, of = call(layer, x), gradients(layer, x, cotangent)
    mesh = jax.make_mesh((4, 2), axes, axis_types=(kind,) * 2, devices=jax.devices())

    def put(tree, *spec):
        return jax.tree.map(lambda a: jax.device_put(a, NamedSharding(mesh, P(*spec))), tree)

    placed = put(layer)
    placed.experts = put(layer.experts, "ep")
    with jax.set_mesh(mesh):
        x, cotangent = put(x, "dp"), put(cotangent, None, "dp")
        got = call(placed, x)
        if kind == AxisType.Explicit:
            assert jax.typeof(got[0]).sharding.spec == P(None, "dp", None, None)
        for a, b in ((got, want), (gradients(placed, x, cotangent), of)):
            jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), a, b)


class Trunk(nnx.Module):
    """A layer for one task under a layer for two, whose gates grow decided."""

    def __init__(self, rngs):
        def expert(rngs):
            return MLP(D, H, rngs=rngs)

        annealed = {"temperature": 4.0, "final_temperature": 1.0}
        layers = [DenseMoE(D, E, expert, rngs=rngs, **annealed)]
        layers += [MultiGateMoE(D, E, expert, num_tasks=TASKS, rngs=rngs, **annealed)]
        self.layers = nnx.List(layers)

    def __call__(self, x):
        x, routing = self.layers[0](x)
        y, routings = self.layers[1](x)
        return y, (routing, *routings)


def test_losses_metrics_and_updates_take_a_routing_for_each_task():
    model = Trunk(nnx.Rngs(0))
    _, routings = call_model(model, draw(0, 2, 4, D))
    total = moejax.auxiliary_loss(routings, entropy=1.0, usage=1.0)
    parts = [moejax.auxiliary_loss(routing, entropy=1.0, usage=1.0) for routing in routings]
    np.testing.assert_allclose(total, sum(parts), rtol=1e-6)
    assert [metrics.load(routing).shape for routing in routings] == [(E,)] * 3
    moejax.update_routers(model, routings, progress=jnp.ones(()))
    for router in (model.layers[0].router, *model.layers[1].routers):
        np.testing.assert_allclose(jnp.exp(router.log_temperature[...]), 1.0, rtol=1e-6)
    with pytest.raises(ValueError, match="got 2 routings for 2 MoE layers; give one a layer, and of a layer for sev"):
        moejax.update_routers(list(model.layers), routings[:2], progress=jnp.ones(()))


@jax.jit
def call_model(model, x):
    return model(x)


def test_what_makes_no_sense_is_refused_in_a_sentence():
    def make(num_tasks=2, **options):
        return MultiGateMoE(D, E, lambda rngs: MLP(D, H, rngs=rngs), num_tasks=num_tasks, rngs=nnx.Rngs(0), **options)

    with pytest.raises(ValueError, match=r"^num_tasks is 0; it must be a whole number from 1 to 1,024\.$"):
        make(0)
    with pytest.raises(ValueError, match="final_temperature is 1, but learn_temperature is true"):
        make(learn_temperature=True, final_temperature=1.0)
