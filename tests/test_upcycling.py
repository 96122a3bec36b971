"""Upcycling: the same function at first, experts that are copies, moments that move along."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from flax import nnx
from jax.sharding import PartitionSpec as P
from seldom import slow_but_for

from moejax.experts import GLU, MLP, stack_experts
from moejax.routers import ROUTERS
from moejax.sharding import DEFAULT_AXES, MeshAxes
from moejax.upcycling import upcycle, upcycle_moments, upcycle_state

D, H, E = 6, 10, 4


def trained(kind=MLP):
    return reference.randomly_filled(lambda: kind(D, H, rngs=nnx.Rngs(0)))


def tokens():
    return jnp.asarray(np.random.default_rng(1).normal(size=(2, 7, D)), jnp.float32)


OPTIONS = [{}, {"k": 3}, {"dispatch": "gather"}, {"dispatch": "grouped"}]
FEW = [(MLP, {}), (GLU, {"k": 3}), (MLP, {"dispatch": "gather"}), (GLU, {"dispatch": "grouped"})]


@pytest.mark.parametrize(("kind", "options"), slow_but_for(itertools.product((MLP, GLU), OPTIONS), *FEW))
def test_the_layer_computes_what_the_mlp_did(kind, options):
    dense = trained(kind)
    y, _ = jax.jit(lambda layer, x: layer(x))(upcycle(dense, D, E, rngs=nnx.Rngs(1), **options), tokens())
    np.testing.assert_allclose(y, dense(tokens()), rtol=1e-5, atol=1e-5)


# Every router with options whose weights sum to 1, and with some whose weights do not.
SAME = {
    "softmax_top_k": ({"k": 2}, {"k": E}, {"k": E, "renormalize": False}),
    "top_k_softmax": ({"k": 2}, {"k": E}),
    "switch": (),
    "noisy_top_k": ({"k": 2}, {"k": 3}),
    "vmoe": ({"k": E},),
    "uniform": ({"k": E},),
    "sigmoid": ({"k": 2}, {"k": 3, "num_expert_groups": 2, "topk_group": 2}),
    "sinkhorn": ({"k": E},),
    "expert_choice": ({"k": 1}, {"k": 2}),
    "relu": (),
    "hash": ({"k": 1}, {"k": 3}),
    "random": ({"k": 1}, {"k": 3}),
}
OTHER = {
    "softmax_top_k": ({"k": 1}, {"k": 3, "renormalize": False}, {"k": 2, "routed_scaling_factor": 2.0}),
    "switch": ({"k": 1},),
    "vmoe": ({"k": 1}, {"k": 2}),
    "uniform": ({"k": 2}, {"k": E, "raw_weights": True}),
    "sigmoid": ({"k": 1}, {"k": E, "renormalize": False}),
    "sinkhorn": ({"k": 1}, {"k": 2}),
    "expert_choice": ({"capacity_factor": 1.0}, {"eval_capacity_factor": 1.0}, {"score_function": "sigmoid"}),
    "relu": ({"k": 2}, {"k": E}),
}


@partial(jax.jit, static_argnums=1)
def output(layer, train):
    return layer(tokens(), train=train, key=jax.random.key(2))[0]


@pytest.mark.parametrize("router", slow_but_for(ROUTERS, "softmax_top_k", "expert_choice"))
def test_the_layer_computes_what_the_mlp_did_with_every_router_or_refuses(router):
    dense = trained()
    for options in SAME[router]:
        layer = upcycle(dense, D, E, rngs=nnx.Rngs(1), router=router, dispatch="gather", **options)
        for train in (False, True):
            y = output(layer, train)
            np.testing.assert_allclose(y, dense(tokens()), rtol=1e-5, atol=1e-5, err_msg=f"{options} {train}")
    for options in OTHER.get(router, ()):
        options = {"k": 2} | options | {"router": router, "dispatch": "gather", "rngs": nnx.Rngs(1)}
        with pytest.raises(
            ValueError,
            match=rf"^k is \d of the router {ROUTERS[router].__name__}, whose weights then do not sum to 1, .*",
        ):
            upcycle(dense, D, E, **options)
        layer = upcycle(dense, D, E, exact=False, **options)
        both = [output(layer, train) for train in (False, True)]
        assert max(np.abs(y - dense(tokens())).max() for y in both) > 0.01


def test_one_expert_alone_is_the_mlp():
    dense = trained()
    y, _ = jax.jit(lambda x: upcycle(dense, D, 1, k=1, rngs=nnx.Rngs(1))(x))(tokens())
    np.testing.assert_allclose(y, dense(tokens()), rtol=1e-5, atol=1e-5)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"^1 experts compute nothing .* pass exact=False"):
        upcycle(trained(), D, E, zero_experts=1, rngs=nnx.Rngs(0))
    upcycle(trained(), D, E, zero_experts=1, exact=False, rngs=nnx.Rngs(0))
    make = lambda rngs: MLP(D, H, rngs=rngs)  # noqa: E731
    with pytest.raises(
        ValueError, match=r"^make_shared adds a shared expert to what the MLP computes; leave it out, or"
    ):
        upcycle(trained(), D, E, make_shared=make, rngs=nnx.Rngs(1))
    assert upcycle(trained(), D, E, make_shared=make, exact=False, rngs=nnx.Rngs(1)).shared is not None
    for options, sentence in (
        ({"noise": -1.0}, "noise is -1.0; it must be a number of at least 0"),
        ({"noise": float("nan")}, "noise is nan; it must be a number of at least 0"),
        ({"exact": "no"}, "exact is no; it must be true or false"),
    ):
        with pytest.raises(ValueError, match=sentence):
            upcycle(trained(), D, E, rngs=nnx.Rngs(1), **options)


def test_every_expert_is_a_copy_and_the_mlp_stays():
    dense = trained()
    before = dense.up.kernel[...].copy()
    layer = upcycle(dense, D, E, rngs=nnx.Rngs(1))
    for expert, mlp in zip(jax.tree.leaves(layer.experts), jax.tree.leaves(dense), strict=True):
        np.testing.assert_array_equal(expert, np.broadcast_to(mlp, (E, *mlp.shape)))
    np.testing.assert_array_equal(dense.up.kernel[...], before)


def test_noise_is_a_share_of_each_parameters_own_deviation():
    dense = reference.randomly_filled(lambda: MLP(40, 50, rngs=nnx.Rngs(0)))
    layer = upcycle(dense, 40, E, noise=0.1, rngs=nnx.Rngs(1))
    noise = np.asarray(layer.experts.up.kernel[...] - dense.up.kernel[...][None])
    np.testing.assert_allclose(noise.std() / np.asarray(dense.up.kernel[...]).std(), 0.1, rtol=0.05)
    assert np.abs(noise[0] - noise[1]).max() > 0.01


def test_the_optimiser_goes_on_with_the_mlps_moments():
    dense = trained()
    adam = optax.adam(1e-2)

    @jax.jit
    def step(module, state):
        gradient = jax.grad(lambda module: sum(jnp.sum(y**2) for y in jax.tree.leaves(module(tokens()))[:1]))(module)
        return adam.update(gradient, state, module)

    _, state = step(dense, jax.jit(adam.init)(dense))

    layer = upcycle(dense, D, E, rngs=nnx.Rngs(1))
    moved = upcycle_state(state, dense, lambda moments: upcycle_moments(moments, layer))
    assert moved[0].count == 1
    for name in ("mu", "nu"):
        old, new = getattr(state[0], name), getattr(moved[0], name)
        np.testing.assert_array_equal(new.experts.up.kernel[...][2], old.up.kernel[...])
        np.testing.assert_array_equal(new.router.kernel[...], np.zeros((D, E)))
    # It is a state for the layer: its own structure, and an update goes through.
    assert jax.tree.structure(moved) == jax.tree.structure(jax.eval_shape(adam.init, layer))
    change, _ = step(layer, moved)
    assert np.abs(change.experts.up.kernel[...]).max() > 0


def test_a_model_around_the_mlp_is_converted_by_its_own_rule():
    class Model(nnx.Module):
        def __init__(self, mlp):
            self.mlp, self.head = mlp, nnx.Linear(D, 2, rngs=nnx.Rngs(2))

    def convert(model):
        model = jax.tree.map(jnp.copy, model)
        model.mlp = upcycle_moments(model.mlp, layer)
        return model

    dense = Model(trained())
    layer = upcycle(dense.mlp, D, E, rngs=nnx.Rngs(1))
    moved = upcycle_state(optax.adam(1e-2).init(dense), dense, convert)
    assert moved[0].mu.mlp.experts.up.kernel.shape == (E, D, H)
    assert moved[0].mu.head.kernel.shape == (D, 2)


def test_a_state_of_something_else_is_refused():
    layer = upcycle(trained(), D, E, rngs=nnx.Rngs(1))
    with pytest.raises(ValueError, match="no tree like the dense module"):
        upcycle_state(optax.adam(1e-2).init({"w": jnp.ones(3)}), trained(), lambda m: upcycle_moments(m, layer))


@pytest.mark.parametrize("other", [dict(d=1), dict(h=1), dict(use_bias=False)], ids=str)
def test_moments_of_another_mlp_are_refused_and_not_spread(other):
    layer = upcycle(MLP(D, H, rngs=nnx.Rngs(0)), D, E, rngs=nnx.Rngs(1))
    moments = MLP(**(dict(d=D, h=H) | other), rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match=r"^moments have the shapes .*, but the MLP that the experts are copies of has"
    ):
        upcycle_moments(moments, layer)


def test_copies_are_sharded_by_expert_as_fresh_experts_are():
    def make(rngs):
        return nnx.Linear(D, D, kernel_metadata={"out_sharding": (None, "tensor"), "eager_sharding": False}, rngs=rngs)

    for dense, axes in ((trained(), DEFAULT_AXES), (make(nnx.Rngs(0)), MeshAxes(("data", "ep"), "ep"))):
        layer = upcycle(dense, D, E, dispatch="gather", mesh_axes=axes, rngs=nnx.Rngs(1))
        fresh = stack_experts(lambda rngs, dense=dense: jax.tree.map(jnp.copy, dense), E, nnx.Rngs(0), axes)
        assert jax.tree.structure(layer.experts) == jax.tree.structure(fresh)
        specs = nnx.get_partition_spec(layer.experts)
    assert specs.kernel.get_value() == P("ep", None, "tensor")
