"""Few tokens: layers with slots sort them by expert, so that few experts are read, and nothing else changes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from jax import export
from jax.sharding import AxisType
from reference import draw
from seldom import slow_but_for

from benchmarks.suite.crossing import bytes_crossing
from moejax import MLP, MeshAxes, SparseMoE
from moejax.experts import few_chosen
from moejax.kernels import groups

D, H, E = 4, 6, 16  # with two of sixteen experts a token, four tokens are few and five are not
WAYS = ["einsum", "gather", "grouped"]


@pytest.fixture(autouse=True)
def _even_small_experts(monkeypatch):
    monkeypatch.setattr("moejax.experts.UNREAD", 0)


def mlp(rngs, dtype=None):
    return MLP(D, H, dtype=dtype, rngs=rngs)


def make(dispatch, make_expert=mlp, **options):
    return reference.randomly_filled(
        lambda: SparseMoE(D, E, make_expert, dispatch=dispatch, rngs=nnx.Rngs(0), **options)
    )


def on_both_sides(f, *arguments, monkeypatch):
    """What a program gives whose tokens are not few, and the same where they are."""
    results = []
    for share in (0, 1 / 2):
        monkeypatch.setattr(groups, "FEW", share)
        results.append(jax.jit(lambda *a: f(*a))(*arguments))
    return results


def assert_close(got, want, tolerance=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), got, want)


def everything(layer, x, given, dx):
    """Output, routing, gradients by the layer and the tokens, and a derivative forward."""

    def loss(layer, x):
        y, routing = layer(x, given=given, mask=jnp.array([[True], [True]]))
        return jnp.sin(y).sum(), (y, routing)

    (_, out), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(layer, x)
    return out, gradients, jax.jvp(lambda x: layer(x)[0], (x,), (dx,))


@pytest.mark.parametrize("dispatch", slow_but_for(WAYS, "gather"))
def test_outputs_gradients_and_drops_are_those_of_slots(dispatch, monkeypatch):
    # Both tokens want expert 3, which has one slot: the second one loses it.
    options = {} if dispatch == "grouped" else {"eval_capacity_factor": 0.5, "group_size": 2}
    layer, given = make(dispatch, **options), jnp.array([[[3, 9]], [[3, 0]]])
    slots, few = on_both_sides(everything, layer, draw(0, 2, 1, D), given, draw(1, 2, 1, D), monkeypatch=monkeypatch)
    assert_close(few, slots)
    (_, routing), *_ = few
    assert dispatch == "grouped" or routing.slots[..., 0].tolist() == [[0, -1]]


@pytest.mark.parametrize("dispatch", ["einsum", "gather"])
def test_so_they_are_under_vmap_and_in_bfloat16(dispatch, monkeypatch):
    x = draw(0, 9, 1, D)  # one token each, nine together
    layer = make(dispatch)
    slots, few = on_both_sides(lambda x: jax.vmap(lambda x: layer(x)[0])(x), x, monkeypatch=monkeypatch)
    assert_close(few, slots)
    narrow = make(dispatch, partial(mlp, dtype=jnp.bfloat16))
    slots, few = on_both_sides(lambda x: narrow(x)[0], x[0].astype(jnp.bfloat16), monkeypatch=monkeypatch)
    assert few.dtype == jnp.bfloat16
    np.testing.assert_allclose(*(np.asarray(a, np.float32) for a in (few, slots)), rtol=0, atol=2**-5)


@pytest.mark.parametrize("dispatch", WAYS)
def test_an_exported_program_has_them_too(dispatch):
    layer, x = make(dispatch), draw(0, 2, D)
    program = jax.jit(lambda x: layer(x)[0])
    exported = export.export(program, platforms=("cpu", "cuda"))(jax.ShapeDtypeStruct(x.shape, x.dtype))
    np.testing.assert_allclose(exported.call(x), program(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dispatch", ["einsum", "gather"])
def test_no_product_takes_all_experts(dispatch):
    layer = make(dispatch)

    def products(tokens):
        lines = jax.jit(lambda x: layer(x)[0]).lower(draw(0, tokens, D)).as_text().splitlines()
        return [line for line in lines if "dot_general" in line and f"<{E}x" in line]

    assert products(5)
    assert not products(4)


def asked(experts, tokens=4, key=None, dispatch="gather", router="softmax_top_k"):
    layer = jax.eval_shape(lambda: SparseMoE(D, E, experts, dispatch=dispatch, router=router, rngs=nnx.Rngs(0)))
    x = jax.ShapeDtypeStruct((1, tokens, D), jnp.float32)
    answers = []

    def call(layer, x, key):
        routing = layer.router(x, 2)
        answers.append(few_chosen(layer.experts, x, routing, key))

    jax.eval_shape(call, layer, x, key)
    return answers[0]


class Scaled(MLP):
    """With a parameter in no linear map."""

    def __init__(self, *args, rngs):
        super().__init__(*args, rngs=rngs)
        self.scale = nnx.Param(jnp.ones(D))

    def __call__(self, x, linear=lambda f, x: f(x)):
        return super().__call__(x, linear) * self.scale[...][None]


def test_who_has_few_and_can_be_sorted(monkeypatch):
    assert asked(mlp)
    assert not asked(mlp, tokens=5)
    assert not asked(mlp, key=jax.random.key(0))
    assert not asked(lambda rngs: nnx.Linear(D, D, rngs=rngs))
    assert not asked(lambda rngs: Scaled(D, H, rngs=rngs))
    assert not asked(mlp, router="expert_choice")
    monkeypatch.setattr("moejax.experts.UNREAD", 2e6)
    assert not asked(mlp)  # as soon read as sorted


def test_on_a_mesh_slots_stay():
    layer = make("gather", mesh_axes=MeshAxes(("dp", "ep"), "ep"), group_size=0, k=1)
    x, call = draw(0, 4, 1, D), jax.jit(lambda layer, x: layer(x)[0])
    mesh = jax.make_mesh((2, 2), ("dp", "ep"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:4])
    want = call(layer, x)
    with jax.set_mesh(mesh):
        compiled = call.lower(layer, x).compile()
        assert bytes_crossing(compiled.as_text())["all-to-all"] > 0
        np.testing.assert_allclose(compiled(layer, x), want, rtol=1e-5, atol=1e-6)
