"""The three layers: against loops over tokens, forward and backward, and the laws that tie them together."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from moejax.dispatch import default_group_size
from moejax.experts import MLP, apply_linear
from moejax.layers import DenseMoE, SoftMoE, SparseMoE
from moejax.routing import expert_capacity

D, H = 5, 7
KINDS = ["dense", "sparse", "soft"]
few = settings(max_examples=25)
seeds = st.integers(0, 1000)


def make(kind, num_experts, *, seed=0, dtype=None, **options):
    layer = {"dense": DenseMoE, "sparse": SparseMoE, "soft": partial(SoftMoE, slots=2)}[kind]

    def expert(rngs):
        return MLP(D, H, dtype=dtype, rngs=rngs)

    return reference.randomly_filled(lambda: layer(D, num_experts, expert, rngs=nnx.Rngs(0), **options), seed)


def tokens(seed, g, t):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(g, t, D)), jnp.float32)


def parameters(layer):
    """A layer's parameters, or a gradient's, as the reference takes them."""
    mlps = layer.experts
    named = {"router": layer.router.kernel, "up": mlps.up.kernel, "up_bias": mlps.up.bias}
    named |= {"down": mlps.down.kernel, "down_bias": mlps.down.bias}
    named |= {"scale": layer.router.scale} if isinstance(layer, SoftMoE) else {}
    if (adds := getattr(layer, "zero_computation_experts", None)) is not None:
        named |= {"mix": adds.kernel, "constant": adds.constant}
    return {name: np.asarray(value[...], np.float64) for name, value in named.items()}


@jax.jit(static_argnames="train")
def call(layer, x, train=False):
    return layer(x, train=train)


@jax.jit
def call_and_gradients(layer, x, cotangent):
    """y, its routing, and the gradient of Σ y · cotangent by the layer and by x."""

    def loss(layer, x):
        y, routing = layer(x)
        return jnp.sum(y * cotangent), (y, routing)

    (_, (y, routing)), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(layer, x)
    return y, routing, gradients


def assert_equals_reference(layer, x, slow):
    """y equals slow(p, x), and the slope of Σ y · cotangent along a random direction of each parameter and of x."""
    rng = np.random.default_rng(7)
    cotangent = rng.normal(size=x.shape)
    y, routing, (layer_gradient, x_gradient) = call_and_gradients(layer, x, jnp.asarray(cotangent, jnp.float32))
    values = parameters(layer) | {"x": np.asarray(x, np.float64)}
    gradients = parameters(layer_gradient) | {"x": np.asarray(x_gradient, np.float64)}

    def f(values):
        return slow({name: value for name, value in values.items() if name != "x"}, values["x"])

    np.testing.assert_allclose(y, f(values), rtol=1e-4, atol=1e-5)
    for name, value in values.items():
        # Central differences in float64 are exact to about 1e-9 here; what remains is float32.
        direction, step = rng.normal(size=value.shape), 1e-5
        ahead, behind = (np.sum(f(values | {name: value + s * direction}) * cotangent) for s in (step, -step))
        want, got = (ahead - behind) / (2 * step), np.sum(gradients[name] * direction)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=f"gradient of {name}")
    return routing


@pytest.mark.parametrize(("num_experts", "g", "t"), [(3, 2, 4), (1, 1, 1)])
def test_dense_equals_a_loop_over_tokens(num_experts, g, t):
    assert_equals_reference(make("dense", num_experts), tokens(0, g, t), reference.dense_moe)


@pytest.mark.parametrize(
    ("num_experts", "k", "g", "t", "factor", "group_size", "drops"),
    [
        (4, 2, 2, 6, 4.0, None, False),
        (3, 2, 2, 6, 0.5, None, True),
        (4, 1, 1, 8, 0.5, None, True),
        (3, 3, 2, 4, 1.0, None, False),  # k = E
        (5, 2, 1, 6, 1e-6, None, True),  # capacity 1
        (3, 2, 3, 1, 1.0, None, False),  # one token
        (1, 1, 2, 3, 1.0, None, False),  # one expert
        (3, 2, 2, 6, 0.7, 4, True),  # 3 groups of 4, one of them across the two that came in
    ],
)
def test_sparse_equals_a_loop_over_tokens(num_experts, k, g, t, factor, group_size, drops):
    size = group_size or t
    layer = make("sparse", num_experts, k=k, eval_capacity_factor=factor, group_size=size)
    capacity = expert_capacity(size, num_experts, k, factor)

    def slow(p, x):
        return reference.sparse_moe(p, x.reshape(-1, size, D), k, capacity).reshape(x.shape)

    routing = assert_equals_reference(layer, tokens(1, g, t), slow)
    assert routing.slots.shape == (g * t // size, size, k)
    assert (np.asarray(routing.slots) < 0).any() == drops


@pytest.mark.parametrize(("num_experts", "g", "t"), [(3, 2, 4), (1, 1, 1)])
def test_soft_equals_a_loop_over_tokens_and_slots(num_experts, g, t):
    assert_equals_reference(make("soft", num_experts), tokens(2, g, t), reference.soft_moe)


def test_soft_routing_equals_the_papers_formulas_for_tokens_of_any_length():
    # Φ and X are normalised, so a token's length matters only where 1e-6 under the root does: in the last two.
    layer = make("soft", 3)
    x = tokens(3, 1, 4) * jnp.array([100.0, 1, 1e-3, 0])[None, :, None]
    dispatch, combine = reference.soft_routing(parameters(layer), np.asarray(x, np.float64))
    _, routing = call(layer, x)
    np.testing.assert_allclose(routing.dispatch, dispatch, rtol=1e-5)
    np.testing.assert_allclose(routing.combine, combine, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_experts_stay_near_the_reference_and_the_router_float32(kind):
    layer = make(kind, 3, dtype=jnp.bfloat16)
    x = tokens(4, 2, 4).astype(jnp.bfloat16)
    slow = {"dense": reference.dense_moe, "sparse": partial(reference.sparse_moe, k=2, capacity=4)}
    want = slow.get(kind, reference.soft_moe)(parameters(layer), np.asarray(x, np.float64))
    y, routing = call(layer, x)
    assert y.dtype == jnp.bfloat16
    assert routing.logits.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(layer))
    # A rounding is 2⁻⁹ of the number rounded; weights, hidden units, answers and gates are rounded in turn, and sums
    # of up to 7 such errors stay well within 8 roundings of the largest output.
    np.testing.assert_allclose(np.asarray(y, np.float64), want, rtol=0, atol=8 * 2**-9 * np.abs(want).max())


def test_training_and_evaluation_have_their_own_capacity():
    # A router of zeros ties, so all four tokens go to expert 0 of 2: in training 1 · 4 / 2 slots, at evaluation 4.
    layer = make("sparse", 2, k=1, capacity_factor=1.0, eval_capacity_factor=2.0, group_size=4)
    layer.router.kernel = nnx.Param(jnp.zeros((D, 2)))
    x = tokens(5, 1, 4)
    (y, training), (y_eval, evaluation) = call(layer, x, train=True), call(layer, x, train=False)
    np.testing.assert_array_equal(training.slots, [[[0], [1], [-1], [-1]]])
    np.testing.assert_array_equal(evaluation.slots, [[[0], [1], [2], [3]]])
    np.testing.assert_array_equal(y[0, 2:], np.zeros((2, D)))  # dropped tokens get zeros
    np.testing.assert_allclose(y[0, :2], y_eval[0, :2], rtol=1e-5, atol=1e-6)
    assert np.abs(y_eval[0, 2:]).max() > 0.1


def test_routers_start_small_and_the_soft_scale_at_1():
    def expert(rngs):
        return MLP(64, 1, rngs=rngs)

    @jax.jit
    def start():
        soft = SoftMoE(64, 16, expert, slots=2, rngs=nnx.Rngs(0))
        return (
            SparseMoE(64, 32, expert, rngs=nnx.Rngs(0)).router.kernel[...],
            soft.router.kernel[...],
            soft.router.scale[...],
        )

    sparse, soft, scale = map(np.asarray, start())
    np.testing.assert_allclose([sparse.std(), soft.std()], [0.02, 64**-0.5], rtol=0.1)  # lecun: 1 / √d
    assert scale == 1


@pytest.mark.parametrize("kind", KINDS)
def test_same_shapes_compile_once(kind):
    traces = []

    @jax.jit
    def traced(layer, x):
        traces.append(x.shape)
        return layer(x)

    for seed in range(3):
        traced(make(kind, 2, seed=seed), tokens(seed, 1, 3))
    assert len(traces) == 1


# Laws. Each layer is built once, so that every example runs the same compiled call.

E, G, T = 3, 2, 4


@cache
def layer_of(kind):
    full = {"k": 2, "eval_capacity_factor": 100.0, "group_size": T} if kind == "sparse" else {}
    return make(kind, E, **full)


@cache
def crowded():
    return make("sparse", E, k=2, eval_capacity_factor=0.5, group_size=T)


def with_experts_in(order, layer):
    """The same layer with its experts, and the router's columns for them, in another order."""
    graph, state = nnx.split(layer)
    permuted = nnx.merge(graph, state)
    permuted.router.kernel = nnx.Param(layer.router.kernel[...][:, np.array(order)])
    permuted.experts = jax.tree.map(lambda a: a[np.array(order)], layer.experts)
    return permuted


@pytest.mark.parametrize("layer", [*(partial(layer_of, kind) for kind in KINDS), crowded], ids=[*KINDS, "crowded"])
@few
@given(seeds, st.permutations(range(E)))
def test_the_order_of_experts_does_not_matter(layer, seed, order):
    layer, x = layer(), tokens(seed, G, T)
    (y, routing), (y_permuted, permuted) = call(layer, x), call(with_experts_in(order, layer), x)
    np.testing.assert_allclose(y, y_permuted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(routing.gates[..., np.array(order)], permuted.gates, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@few
@given(seeds, st.permutations(range(T)))
def test_permuting_tokens_permutes_the_output_when_none_is_dropped(kind, seed, order):
    x, order = tokens(seed, G, T), np.array(order)
    y, _ = call(layer_of(kind), x)
    y_permuted, _ = call(layer_of(kind), x[:, order])
    np.testing.assert_allclose(y[:, order], y_permuted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [*(partial(layer_of, kind) for kind in KINDS), crowded], ids=[*KINDS, "crowded"])
@few
@given(seeds, seeds)
def test_a_group_does_not_see_the_other_groups(layer, seed, other):
    x = tokens(seed, G, T)
    y, _ = call(layer(), x)
    y_beside_another, _ = call(layer(), x.at[1].set(tokens(other, G, T)[0]))
    np.testing.assert_allclose(y[0], y_beside_another[0], rtol=1e-5, atol=1e-6)


@few
@given(seeds)
def test_sparse_with_all_experts_and_room_for_all_is_dense(seed):
    dense, sparse = layer_of("dense"), make("sparse", E, k=E, eval_capacity_factor=1.0, group_size=T)
    x = tokens(seed, G, T)
    (y, routing), (y_sparse, sparse_routing) = call(dense, x), call(sparse, x)
    np.testing.assert_allclose(y, y_sparse, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(routing.gates, sparse_routing.gates, rtol=1e-5)


@few
@given(seeds)
def test_gates_sum_to_1_where_nothing_is_dropped(seed):
    for kind in KINDS:
        _, routing = call(layer_of(kind), tokens(seed, G, T))
        np.testing.assert_allclose(routing.gates.sum(-1), np.ones((G, T)), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["zero tokens", "zero router"])
def test_gradients_are_finite_at_zero_tokens_and_at_ties(kind, what):
    layer, x = layer_of(kind), tokens(0, G, T)
    if what == "zero tokens":
        x = x.at[0].set(0).at[1, 0].set(0)
    else:
        layer = with_experts_in(range(E), layer)
        layer.router.kernel = nnx.Param(jnp.zeros_like(layer.router.kernel[...]))
    *_, gradients = call_and_gradients(layer, x, jnp.ones(x.shape))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_experts_that_nobody_chose_get_exactly_no_gradient():
    # Positive tokens and this router choose expert 1 and never 0 or 2.
    layer = make("sparse", E, k=1, eval_capacity_factor=100.0)
    layer.router.kernel = nnx.Param(jnp.array([[-1.0, 1.0, -1.0]] * D))
    *_, (gradient, _) = call_and_gradients(layer, jnp.abs(tokens(0, G, T)), tokens(1, G, T))
    for leaf in jax.tree.leaves(gradient.experts):
        np.testing.assert_array_equal(leaf[np.array([0, 2])], np.zeros_like(leaf[:2]))
        assert np.abs(leaf[1]).max() > 1e-3


def test_the_router_of_a_single_choice_learns():
    layer = make("sparse", E, k=1, eval_capacity_factor=100.0)
    *_, (gradient, _) = call_and_gradients(layer, tokens(0, G, T), tokens(1, G, T))
    assert np.abs(gradient.router.kernel[...]).max() > 1e-3


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_router_may_look_at_something_else_than_the_experts(kind):
    options = {"group_size": 3, "capacity_factor": None, "eval_capacity_factor": None} if kind == "sparse" else {}
    layer, x, other = make(kind, 4, **options), tokens(0, 2, 4), tokens(1, 2, 4)
    y, routing = jax.jit(lambda layer: layer(x, router_input=other))(layer)
    _, want = call(layer, other)
    jax.tree.map(np.testing.assert_array_equal, routing, want)
    # The experts still see x: with x as the router input the weights differ, but not what the experts get.
    np.testing.assert_allclose(jax.jit(lambda layer: layer(x, router_input=x))(layer)[0], call(layer, x)[0], rtol=1e-6)
    assert np.abs(y - call(layer, other)[0]).max() > 0.01


@pytest.mark.parametrize("dispatch", ["einsum", "gather", "grouped"])
@pytest.mark.parametrize("kind", ["dense", "sparse", "soft"])
def test_dtype_is_that_of_experts_and_output_and_not_the_routers(kind, dispatch):
    if kind != "sparse" and dispatch != "einsum":
        return
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 8)), jnp.float32)
    options = {"dispatch": dispatch, "make_shared": lambda rngs: MLP(8, 4, rngs=rngs)} if kind == "sparse" else {}
    layer = {"dense": DenseMoE, "sparse": SparseMoE, "soft": SoftMoE}[kind]

    def make(make_expert, **dtype):
        return layer(8, 3, make_expert, rngs=nnx.Rngs(0), **options, **dtype)

    seen = []

    class Spy(MLP):
        def __call__(self, x, linear=apply_linear):
            seen.append((x.dtype, self.up.kernel.dtype))
            return super().__call__(x, linear)

    narrow = make(lambda rngs: Spy(8, 16, rngs=rngs), dtype=jnp.bfloat16)
    wide = jax.jit(lambda layer, x: layer(x))(make(lambda rngs: MLP(8, 16, rngs=rngs)), x)
    y, routing = jax.jit(lambda layer, x: layer(x))(narrow, x)
    assert set(seen) == {(jnp.dtype("bfloat16"), jnp.dtype("bfloat16"))}
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(routing.logits.reshape(wide[1].logits.shape), wide[1].logits)
    np.testing.assert_allclose(y.astype(jnp.float32), wide[0], atol=0.05)


def test_the_default_groups_cost_what_the_command_lines_do():
    d, h, tokens = 64, 128, 8192

    def cost(dispatch, **options):
        layer = nnx.eval_shape(
            lambda: SparseMoE(d, 8, lambda rngs: MLP(d, h, rngs=rngs), dispatch=dispatch, rngs=nnx.Rngs(0), **options)
        )
        x = jax.ShapeDtypeStruct((1, tokens, d), jnp.float32)
        compiled = jax.jit(lambda layer, x: layer(x, train=True)[0]).lower(layer, x).compile()
        return layer.group_size, compiled.cost_analysis()["flops"], compiled.memory_analysis().temp_size_in_bytes

    size, flops, memory = cost("einsum")
    _, flops_of_one_group, memory_of_one_group = cost("einsum", group_size=0)
    assert size == default_group_size(h) == cost("gather")[0] == 32
    assert flops < 2.5e9 < 40e9 < flops_of_one_group
    assert memory < 1e8 < 5e8 < memory_of_one_group


@pytest.mark.parametrize(("width", "shared"), [(8, 1), (1, 8)])
def test_a_shared_expert_of_another_width_is_refused_and_not_spread(width, shared):
    def expert(width):
        return lambda rngs: nnx.Linear(8, width, rngs=rngs)

    layer = SparseMoE(8, 4, expert(width), make_shared=expert(shared), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=f"outputs have {shared} numbers, but those of `make_expert`'s have {width};"):
        layer(jnp.ones((1, 4, 8)))
