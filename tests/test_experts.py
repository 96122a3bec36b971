"""Stacked experts: E different modules, applied as a Python loop over them would."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import mlp, randomly_filled

from moejax.dispatch.index_tables import sorted_tables
from moejax.experts import (
    GLU,
    MLP,
    apply_experts,
    apply_experts_to_all,
    apply_experts_to_groups,
    apply_linear,
    can_be_grouped,
    stack_experts,
)
from moejax.kernels import cpu_blas, slots
from moejax.kernels.groups import Groups
from moejax.kernels.numpy_calls import flops
from moejax.layers import DenseMoE, SoftMoE, SparseMoE

G, E, C, D, H = 2, 3, 4, 5, 7


class Gated(nnx.Module):
    """A gated linear unit: a module of another kind."""

    def __init__(self, rngs):
        self.gate, self.up, self.down = (nnx.Linear(*sizes, rngs=rngs) for sizes in ((D, H), (D, H), (H, D)))

    def __call__(self, x):
        return self.down(jax.nn.sigmoid(self.gate(x)) * self.up(x))


MAKERS = {
    "mlp": lambda rngs: MLP(D, H, rngs=rngs),
    "gated": Gated,
    "linear": lambda rngs: nnx.Linear(D, D, use_bias=False, rngs=rngs),
    "sequential": lambda rngs: nnx.Sequential(
        nnx.LayerNorm(D, rngs=rngs), nnx.Linear(D, H, rngs=rngs), jax.nn.relu, nnx.Linear(H, D, rngs=rngs)
    ),
}


def draw(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


@jax.jit
def two_stacks(seed):
    """Two stacks of experts of width 64 and hidden width 32, from one rngs."""
    rngs = nnx.Rngs(jax.random.key(seed))
    return tuple(stack_experts(lambda rngs: MLP(64, 32, rngs=rngs), E, rngs) for _ in range(2))


def random_stack(name):
    return randomly_filled(lambda: stack_experts(MAKERS[name], E, nnx.Rngs(0)))


def one_of(experts, e):
    return jax.tree.map(lambda a: a[e], experts)


@jax.jit
def answer(expert, x):
    return expert(x)


def test_an_mlp_equals_the_reference():
    module = randomly_filled(lambda: MLP(D, H, rngs=nnx.Rngs(0)))
    p = {"up": module.up.kernel, "up_bias": module.up.bias, "down": module.down.kernel, "down_bias": module.down.bias}
    p = {name: np.asarray(value[...], np.float64)[None] for name, value in p.items()}
    x = draw(2, D)
    np.testing.assert_allclose(
        answer(module, x), [mlp(p, 0, np.asarray(t, np.float64)) for t in x], rtol=1e-4, atol=1e-5
    )


def test_copies_have_a_leading_axis_and_all_differ():
    first, second = two_stacks(0)
    assert first.up.kernel.shape == (E, 64, 32)
    assert first.down.bias.shape == (E, 64)
    for kernels in ((first.up, second.up), (first.down, second.down)):
        copies = np.concatenate([linear.kernel[...] for linear in kernels])
        assert all(np.abs(copies[a] - copies[b]).mean() > 0.01 for a, b in itertools.combinations(range(2 * E), 2))


def test_each_copy_is_initialised_by_its_own_size_not_the_stacks():
    # lecun_normal: 1 / √d of one expert; the fan-in of the stacked array would be E times that
    experts, _ = two_stacks(0)
    for kernel, fan_in in ((experts.up.kernel, 64), (experts.down.kernel, 32)):
        np.testing.assert_allclose(np.std(np.asarray(kernel[...]), axis=(1, 2)), np.full(E, fan_in**-0.5), rtol=0.1)


def test_a_stack_is_a_function_of_its_seed():
    first, again, other = (np.asarray(two_stacks(seed)[0].up.kernel[...]) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.01


@pytest.mark.parametrize("name", MAKERS)
def test_each_expert_answers_its_own_slots_whatever_the_module(name):
    experts, x = random_stack(name), draw(E, G, C, D)
    want = np.stack([answer(one_of(experts, e), x[e]) for e in range(E)])
    np.testing.assert_allclose(jax.jit(apply_experts)(experts, x), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "sequential"])
def test_every_expert_answers_every_token(name):
    experts, x = random_stack(name), draw(G, C, D)
    want = np.stack([answer(one_of(experts, e), x) for e in range(E)])
    np.testing.assert_allclose(jax.jit(apply_experts_to_all)(experts, x), want, rtol=1e-5, atol=1e-6)


def test_an_experts_gradient_comes_from_its_own_slots_alone():
    experts, x = random_stack("linear"), draw(E, G, C, D)
    gradient = jax.jit(jax.grad(lambda experts: apply_experts(experts, x)[1].sum()))(experts)
    # y = x W, so the gradient of Σ y by W[i, j] is Σ x_i over the slots of expert 1, for every j
    want = np.zeros((E, D, D))
    want[1] = np.asarray(x[1]).sum((0, 1))[:, None]
    np.testing.assert_allclose(gradient.kernel[...], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_an_mlp_computes_in_its_dtype_and_keeps_float32_parameters(dtype):
    experts = randomly_filled(lambda: stack_experts(lambda rngs: MLP(D, H, dtype=dtype, rngs=rngs), E, nnx.Rngs(0)))
    assert {leaf.dtype for leaf in jax.tree.leaves(experts)} == {jnp.dtype("float32")}
    assert jax.eval_shape(apply_experts, experts, draw(E, G, C, D)).dtype == (dtype or jnp.float32)


def test_a_glu_equals_its_formula():
    module, x = randomly_filled(lambda: GLU(D, H, rngs=nnx.Rngs(0))), draw(2, D)
    gate_up, down = (np.asarray(m.kernel[...], np.float64) for m in (module.gate_up, module.down))
    gate, up = np.split(np.asarray(x, np.float64) @ gate_up, 2, axis=-1)
    np.testing.assert_allclose(answer(module, x), (gate / (1 + np.exp(-gate)) * up) @ down, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [MLP, GLU])
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
@pytest.mark.parametrize("use_bias", [False, True])
def test_experts_applied_to_groups_answer_their_own_rows(kind, dtype, use_bias):
    experts = randomly_filled(
        lambda: stack_experts(lambda rngs: kind(D, H, dtype=dtype, use_bias=use_bias, rngs=rngs), E, nnx.Rngs(0))
    )
    x, sizes = draw(7, D), np.array([3, 0, 4][:E] + [0] * (E - 3))
    got = jax.jit(apply_experts_to_groups)(experts, x, Groups.of(jnp.asarray(sizes)))
    of_row = np.repeat(np.arange(E), sizes)
    want = np.concatenate([answer(one_of(experts, e), x[r : r + 1]) for r, e in enumerate(of_row)])
    tolerance = 1e-5 if dtype is None else 0.05
    np.testing.assert_allclose(np.float32(got), np.float32(want), rtol=tolerance, atol=tolerance)
    assert got.dtype == want.dtype


class Parts(nnx.Module):
    """An expert that cuts its rows into parts, each with the same linear map."""

    def __init__(self, rngs):
        self.map = nnx.Linear(D, H, rngs=rngs)

    def __call__(self, x, linear=apply_linear):
        return jnp.tanh(linear(self.map, x.reshape(*x.shape[:-1], 2, 3, D))).sum((-3, -2))


def test_grouped_experts_may_cut_their_rows_into_parts():
    experts, x, sizes = randomly_filled(lambda: stack_experts(Parts, E, nnx.Rngs(0))), draw(7, 6 * D), [3, 0, 4]
    got = jax.jit(apply_experts_to_groups)(experts, x, Groups.of(jnp.asarray(sizes)))
    of_row = np.repeat(np.arange(E), sizes)
    want = np.concatenate([answer(one_of(experts, e), x[r : r + 1]) for r, e in enumerate(of_row)])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_experts_can_be_grouped_if_their_call_takes_the_linear_map():
    rngs = nnx.Rngs(0)
    assert all(can_be_grouped(expert) for expert in (MLP(D, H, rngs=rngs), GLU(D, H, rngs=rngs), Parts(rngs)))
    assert not any(can_be_grouped(expert) for expert in (Gated(rngs), nnx.Linear(D, D, rngs=rngs)))


def of_slots(kind, monkeypatch, least, **options):
    """Experts on random slots as a new program, with gradients; BLAS's from so many FLOPs."""
    monkeypatch.setattr("moejax.kernels.slots.LARGE", least)
    experts = randomly_filled(lambda: stack_experts(lambda rngs: kind(D, H, rngs=rngs, **options), E, nnx.Rngs(0)))
    x, dy = draw(E, G, C, D), draw(E, G, C, D)

    def both(experts, x, dy):
        y, transpose = jax.vjp(apply_experts, experts, x)
        return y, transpose(dy.astype(y.dtype))

    program = jax.jit(both).lower(experts, x, dy).compile()
    return program, program(experts, x, dy)


@pytest.mark.parametrize("options", [{"use_bias": True}, {"use_bias": False}])
@pytest.mark.parametrize("kind", [MLP, GLU])
def test_large_products_of_slots_are_blas_and_equal_xlas(kind, options, monkeypatch):
    by_xla, want = of_slots(kind, monkeypatch, np.inf, **options)
    by_blas, got = of_slots(kind, monkeypatch, 0, **options)
    assert "moejax_grouped" not in by_xla.as_text()
    assert by_blas.as_text().count('custom_call_target="moejax_grouped') == 6  # two maps, three products each
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)
    of_products = 3 * 2 * E * G * C * D * H * (2 if kind is MLP else 3)
    assert flops(by_blas) - by_blas.cost_analysis()["flops"] == of_products
    assert flops(by_xla) == by_xla.cost_analysis()["flops"] > of_products


@pytest.mark.parametrize(("dtype", "calls"), [(None, 2), (jnp.bfloat16, 0)])
def test_what_blas_has_no_product_of_stays_with_xla(dtype, calls, monkeypatch):
    monkeypatch.setattr("moejax.kernels.slots.LARGE", 0)
    experts = randomly_filled(lambda: stack_experts(lambda rngs: MLP(D, H, dtype=dtype, rngs=rngs), E, nnx.Rngs(0)))
    program = jax.jit(lambda experts, x: apply_experts(experts, x)).lower(experts, draw(E, G, C, D)).compile()
    assert program.as_text().count('custom_call_target="moejax_grouped') == calls


def test_which_products_are_large():
    e, n, d, h = 3, 5, 7, 11
    assert slots._flops(jax.vmap(jnp.matmul), jnp.ones((e, n, d)), jnp.ones((e, d, h))) == 2 * e * n * d * h


class Scaled(nnx.Module):
    """An expert with a number of its own beside its linear map."""

    def __init__(self, rngs):
        self.map = nnx.Linear(E, E, rngs=rngs)
        self.gain = nnx.Param(jax.random.normal(rngs.params(), ()))

    def __call__(self, x, linear=apply_linear):
        return self.gain[...] * linear(self.map, x)


@pytest.mark.parametrize("least", [0, np.inf])
def test_a_weight_that_passes_by_the_linear_map_belongs_to_its_expert_in_slots(least, monkeypatch):
    # As many experts as hidden numbers: [e] gains times [n, e] rows would be silent.
    monkeypatch.setattr("moejax.kernels.slots.LARGE", least)
    experts, x = randomly_filled(lambda: stack_experts(Scaled, E, nnx.Rngs(0))), draw(E, G, C, E)
    got = jax.jit(lambda experts, x: apply_experts(experts, x))(experts, x)
    np.testing.assert_allclose(got, [answer(one_of(experts, e), x[e]) for e in range(E)], rtol=1e-5, atol=1e-6)


class Precise(nnx.Module):
    """An expert whose linear map is no plain one."""

    def __init__(self, rngs):
        self.map = nnx.Linear(E, E, precision="highest", rngs=rngs)

    def __call__(self, x, linear=apply_linear):
        return linear(self.map, x)


class Normed(nnx.Module):
    """Its matrix is read beside its map, too."""

    def __init__(self, rngs):
        self.map = nnx.Linear(E, E, rngs=rngs)

    def __call__(self, x, linear=apply_linear):
        return linear(self.map, x) * jnp.linalg.norm(self.map.kernel[...])


class Turned(nnx.Module):
    """An expert that applies its map to its rows as parts of one."""

    def __init__(self, rngs):
        self.map = nnx.Linear(E, E, rngs=rngs)

    def __call__(self, x, linear=apply_linear):
        return linear(self.map, x[None])[0]


class Constant(nnx.Module):
    """An expert that applies one of its maps to what is no row."""

    def __init__(self, rngs):
        self.map, self.constant = (nnx.Linear(E, E, rngs=rngs) for _ in range(2))

    def __call__(self, x, linear=apply_linear):
        return linear(self.map, x) + linear(self.constant, jnp.ones((*[1] * (x.ndim - 1), E)))


OTHER_ROWS = "a call of `linear` on something else than its rows"
NOT_GROUPED = [
    (Scaled, "gain beside those"),
    (Precise, "map with precision highest"),
    (Normed, "map.kernel beside those"),
    (Turned, OTHER_ROWS),
    (Constant, OTHER_ROWS),
]


@pytest.mark.parametrize("expert", [Normed, Turned, Constant])
def test_few_tokens_have_the_answers_of_many_whatever_an_expert_does(expert, monkeypatch):
    monkeypatch.setattr("moejax.experts.UNREAD", 0)
    layer = SparseMoE(E, E, expert, capacity_factor=None, eval_capacity_factor=None, rngs=nnx.Rngs(0))
    x = draw(8, 1, E)
    many, few = (jax.jit(lambda layer, x: layer(x)[0])(layer, of) for of in (x, x[:1]))
    np.testing.assert_allclose(few[0], many[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("starts", "sizes"), [((0, 4), (4, 4)), ((0, 0, 0), (2, 2, 2)), ((0, 3, 5), (3, 3, 0)), ((5, 0), (5, 1))]
)
def test_groups_beyond_the_rows_or_within_each_other_are_one_sentence(starts, sizes):
    experts = stack_experts(lambda rngs: MLP(D, H, rngs=rngs), len(sizes), nnx.Rngs(0))
    groups = Groups(jnp.array(starts, jnp.int32), jnp.array(sizes, jnp.int32))
    with pytest.raises(ValueError, match=r"^the groups end at .* each must start where the one before it has ended"):
        apply_experts_to_groups(experts, draw(6, D), groups)


def test_groups_are_int32_also_where_whole_numbers_are_not():
    with jax.enable_x64(True):
        _, groups = sorted_tables(jnp.array([[0, 1], [1, 0]]), 2, jnp.ones((2, 2)))
        of_sizes = Groups.of(jnp.array([1, 2]))
        assert {a.dtype for a in (*groups, *of_sizes)} == {jnp.dtype("int32")}


def test_groups_beyond_the_rows_are_refused_before_they_are_read():
    x, w, y = (np.ones(shape, np.float32) for shape in ((4, 3), (2, 3, 5), (4, 5)))
    with pytest.raises(ValueError, match="the groups end at row 5, but there are 4"):
        cpu_blas._fill_products(x, w, np.array([0, 2]), np.array([2, 3]), y)


@pytest.mark.parametrize(("expert", "words"), NOT_GROUPED)
def test_grouped_refuses_experts_with_weights_that_pass_by_the_linear_map(expert, words):
    layer = SparseMoE(E, E, expert, dispatch="grouped", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=f"{expert.__name__} has {words}; use 'gather'."):
        layer(draw(1, 4, E))


@pytest.mark.parametrize("dispatch", ["einsum", "gather", "grouped"])
@pytest.mark.parametrize("kind", [MLP, GLU])
def test_parameters_begin_and_are_kept_as_nnx_linear_has_them(kind, dispatch):
    ones, thirds = nnx.initializers.constant(0.5), nnx.initializers.constant(1 / 3)
    options = {"param_dtype": jnp.bfloat16, "kernel_init": ones, "bias_init": thirds, "use_bias": True}
    layer = SparseMoE(
        D, E, lambda rngs: kind(D, H, rngs=rngs, **options), dispatch=dispatch, capacity_factor=None, rngs=nnx.Rngs(0)
    )
    leaves = jax.tree.leaves(layer.experts)
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("bfloat16")}
    assert {float(leaf.ravel()[0]) for leaf in leaves} == {0.5, float(jnp.bfloat16(1 / 3))}
    x = draw(G, C, D)
    y, _ = jax.jit(lambda layer, x: layer(x))(layer, x)
    assert y.dtype == jnp.float32  # as nnx.Linear promotes
    np.testing.assert_allclose(y, answer(one_of(layer.experts, 0), x), rtol=1e-5, atol=1e-6)  # all are alike


@pytest.mark.parametrize("dispatch", ["einsum", "gather", "grouped"])
@pytest.mark.parametrize("kind", [MLP, GLU])
def test_precision_is_kept_or_refused(kind, dispatch):
    def make(rngs):
        return kind(D, H, precision="highest", rngs=rngs)

    layer = SparseMoE(D, E, make, dispatch=dispatch, rngs=nnx.Rngs(0))
    if dispatch == "grouped":
        with pytest.raises(ValueError, match=r"has down with precision highest, .*up with precision highest; use"):
            layer(draw(G, C, D))
        return
    program = str(jax.make_jaxpr(lambda experts, x: apply_experts(experts, x))(layer.experts, draw(E, G, C, D)))
    assert program.count("dot_general[") == program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == 2


class Head(nnx.Module):
    """A linear map of a token, whose output is then given a wrong shape."""

    def __init__(self, wrong, rngs):
        self.map, self.wrong = nnx.Linear(D, 1, rngs=rngs), wrong

    def __call__(self, x, linear=apply_linear):
        return self.wrong(linear(self.map, x))


@pytest.mark.parametrize("layer", ["einsum", "gather", "grouped", "dense", "soft"])
@pytest.mark.parametrize(
    "wrong", [lambda y: y[..., 0], lambda y: y.mean(-2, keepdims=True)], ids=["no width", "one for all tokens"]
)
def test_an_output_that_is_not_one_a_token_is_refused_and_not_spread(layer, wrong):
    kind = {"dense": DenseMoE, "soft": SoftMoE}.get(layer, partial(SparseMoE, dispatch=layer))
    moe = kind(D, E, lambda rngs: Head(wrong, rngs), rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match=r"^make_expert made a Head that gives the shape \(.*\) for tokens \(.*\); an exp"
    ):
        moe(draw(1, 16, D))


@pytest.mark.parametrize("dispatch", ["gather", "grouped"])
def test_experts_of_another_width_are_one_sentence(dispatch):
    moe = SparseMoE(D, E, lambda rngs: MLP(D + 1, H, rngs=rngs), dispatch=dispatch, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match=r"^an expert's linear map reads 6 numbers a token, but gets 5; let make_expert"
    ):
        moe(draw(1, 16, D))
