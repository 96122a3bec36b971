"""What crosses devices in the compiled expert-parallel step: what the formula says, in all-to-alls, and no more."""

import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import NamedSharding

from benchmarks.suite.crossing import bytes_by_computation, bytes_crossing, expected
from moejax import MLP, SparseMoE, load_balance_loss
from moejax.dispatch import grouped_mesh
from moejax.experts import apply_linear
from moejax.routing import limit_to_groups
from moejax.sharding import DEFAULT_AXES, TOKENS, make_mesh

E, T, D, H = 8, 32, 128, 512  # experts, tokens of a group, widths
GROUPS = 2  # of a device


class Network(nnx.Module):
    """A layer with something before it, so that its input has a gradient as well."""

    def __init__(self, dispatch: str):
        rngs = nnx.Rngs(0)
        self.before = nnx.Linear(D, D, rngs=rngs)
        self.moe = SparseMoE(D, E, lambda rngs: MLP(D, H, rngs=rngs), dispatch=dispatch, group_size=T, rngs=rngs)


def step(network: Network, x):
    def loss(network):
        y, routing = network.moe(network.before(x), train=True)
        return (y**2).mean() + load_balance_loss(routing)

    return jax.tree.map(lambda p, g: p - g, network, jax.grad(loss)(network))


def compiled(dispatch: str, data: int, expert: int) -> jax.stages.Compiled:
    assert len(jax.devices()) == 8, "these tests need the eight virtual devices of conftest.py"
    mesh = make_mesh(data, expert, jax.devices()[: data * expert])
    network = jax.eval_shape(lambda: Network(dispatch))
    where = nnx.get_named_sharding(network, mesh)
    network = jax.tree.map(lambda p, s: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=s), network, where)
    x = jax.ShapeDtypeStruct(
        (GROUPS * data * expert, T, D), jnp.float32, sharding=NamedSharding(mesh, DEFAULT_AXES.spec(TOKENS))
    )
    with jax.set_mesh(mesh):
        return jax.jit(step, out_shardings=where).lower(network, x).compile()


def sizes(dispatch: str) -> dict[str, int]:
    network = jax.eval_shape(lambda: Network(dispatch))
    experts = sum(p.size for p in jax.tree.leaves(network.moe.experts))
    rest = sum(p.size for p in jax.tree.leaves(network)) - experts
    return {"slots": E * GROUPS * network.moe.capacity(T, train=True) * D, "experts": experts, "rest": rest}


SELDOM = [pytest.param(*mesh, marks=pytest.mark.slow) for mesh in ((1, 2), (1, 4), (4, 2))]


@pytest.mark.parametrize("dispatch", ["einsum", "gather"])
@pytest.mark.parametrize(("data", "expert"), [*SELDOM, (1, 8), (2, 4), (8, 1)])
def test_bytes_are_those_of_the_formula_and_nothing_is_gathered(dispatch, data, expert):
    crossing = bytes_crossing(compiled(dispatch, data, expert).as_text())
    want = expected(**sizes(dispatch), data=data, expert=expert)
    assert {kind for kind, size in crossing.items() if size} == {kind for kind, size in want.items() if size}
    for kind, size in crossing.items():
        assert size == pytest.approx(want[kind], rel=0.05)


@pytest.mark.parametrize("dispatch", ["einsum", "gather"])
def test_a_device_sends_as_much_when_devices_and_tokens_grow_together(dispatch):
    two, four, eight = (bytes_crossing(compiled(dispatch, 1, expert).as_text()) for expert in (2, 4, 8))
    assert two == four == eight
    assert two["all-to-all"] > 0


def test_a_dropless_layer_exchanges_rows_or_gathers_tokens_and_never_both():
    data, expert = 1, 8
    tokens, k = GROUPS * T, 2
    rows = expert * math.ceil(grouped_mesh.ROOM * k * tokens / expert)
    branches = bytes_by_computation(compiled("grouped", data, expert).as_text()).values()
    exchanging = [crossing["all-to-all"] for crossing in branches if "all-to-all" in crossing]
    gathering = [crossing["all-gather"] for crossing in branches if "all-gather" in crossing]
    assert not any(crossing.keys() >= {"all-to-all", "all-gather"} for crossing in branches)
    assert sum(exchanging) == 4 * rows * D * 4 + rows * 4
    assert sum(gathering) > sum(exchanging)


def test_a_choice_limited_to_groups_of_experts_stays_on_each_device():
    mesh = make_mesh(2, 4, jax.devices())
    scores = jax.ShapeDtypeStruct((8, T, E), jnp.float32, sharding=NamedSharding(mesh, DEFAULT_AXES.spec(TOKENS)))
    with jax.set_mesh(mesh):
        program = jax.jit(lambda scores: limit_to_groups(scores, 4, 2, 2)).lower(scores).compile()
    assert bytes_crossing(program.as_text()) == {}


def test_bytes_are_read_from_a_program():
    text = """
      %a = (f32[1,2,3]{2,1,0}, f32[1,2,3]{2,1,0}) all-to-all(%x, %y), replica_groups={{0,1}}
      %b = bf16[4,5]{1,0} all-gather(%z), dimensions={0}
      %c = pred[7]{0} all-gather(%z), dimensions={0}
      %d = f32[] all-reduce(%l), to_apply=%add
      %e = f32[9]{0} add(%f, %all-gather)
    """
    assert bytes_crossing(text) == {"all-to-all": 48, "all-gather": 47, "all-reduce": 4}


def test_what_the_router_looks_at_lies_as_the_tokens_do():
    layer = jax.eval_shape(lambda: SparseMoE(5, E, lambda rngs: MLP(D, H, rngs=rngs), group_size=0, rngs=nnx.Rngs(0)))
    x, seen = (jax.ShapeDtypeStruct((8, T, width), jnp.float32) for width in (D, 5))
    with jax.set_mesh(make_mesh(2, 4, jax.devices())):
        program = jax.make_jaxpr(lambda layer, x, seen: layer(x, router_input=seen))(layer, x, seen)
    inside = [e for call in program.eqns for e in call.params["jaxpr"].eqns]
    constrained = [e.invars[0].aval.shape for e in inside if e.primitive.name == "sharding_constraint"]
    assert {x.shape, seen.shape} <= set(constrained)


class Drawing(MLP):
    """Zeros every number of its output by a coin."""

    draws = True

    def __call__(self, x, linear=apply_linear, *, key=None):
        y = super().__call__(x, linear)
        return y if key is None else jnp.where(jax.random.bernoulli(key, shape=y.shape), y, 0)


def test_experts_on_several_devices_draw_apart():
    # All tokens alike and one expert a device: equal draws would drop the same numbers of each device's rows.
    make = jax.jit(lambda: SparseMoE(D, E, lambda rngs: Drawing(D, 4, rngs=rngs), dispatch="grouped", rngs=nnx.Rngs(0)))
    x = jnp.ones((8, T, D))
    with jax.set_mesh(make_mesh(8, 1, jax.devices())):
        y, _ = jax.jit(lambda layer, x: layer(x, train=True, key=jax.random.key(0)))(make(), x)
    kept = jnp.asarray(y) != 0
    assert all((kept[0] != kept[g]).any() for g in range(1, 8))
