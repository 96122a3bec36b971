"""What a user meets who calls a layer as most do: without jit, without this suite's shape checks, on one device.

Run by `test_plain_process.py` in a process of its own.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import moejax
from moejax import losses
from moejax.experts import MLP
from moejax.layers import DenseMoE, SoftMoE, SparseMoE
from moejax.models.dropout import dropout
from moejax.routers import Context

G, T, D, E = 3, 6, 8, 4


def mlp(rngs):
    return MLP(D, 16, rngs=rngs)


def dropping(rngs):
    return Dropping(D, 16, rngs=rngs)


LAYERS = {
    "dense": DenseMoE,
    "soft": partial(SoftMoE, slots=2),
    "einsum": SparseMoE,
    "gather": partial(SparseMoE, dispatch="gather"),
    "grouped": partial(SparseMoE, dispatch="grouped"),
    "regrouped": partial(SparseMoE, group_size=4),
    "hash": partial(SparseMoE, router="hash"),
    "sinkhorn": partial(SparseMoE, router="sinkhorn"),
    "expert_choice": partial(SparseMoE, router="expert_choice"),
    "shared": partial(SparseMoE, make_shared=mlp, shared_gate=True),
}
SELDOM = ("regrouped", "hash", "sinkhorn", "shared")  # what they add to their dispatch is tested elsewhere too
everywhere = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SELDOM else name for name in LAYERS]
)
in_each_kind = pytest.mark.parametrize("name", ["dense", "soft", "regrouped"])


def filled(module, seed=0):
    """The same module with random numbers for all its parameters, biases too."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), module)


def make(name):
    return filled(LAYERS[name](D, E, mlp, rngs=nnx.Rngs(0)))


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def every_loss(routing):
    kinds = [losses.importance_loss, losses.entropy_loss, losses.usage_loss]
    if hasattr(routing, "probs"):
        kinds += [losses.router_z_loss, lambda r: losses.assignment_loss(r, jnp.zeros(r.probs.shape[:2], int))]
    if hasattr(routing, "experts"):
        kinds += [losses.load_balance_loss, losses.load_loss]
    return jnp.stack([loss(routing) for loss in kinds])


@jax.jit
def all_of(layer, x, router_input, mask):
    """The output, all losses, and the gradient of everything by the layer, the tokens and the router input."""

    def total(layer, x, router_input):
        y, routing = layer(x, router_input=router_input, mask=mask)
        values = every_loss(routing)
        return (y**2).sum() + values.sum(), (y, values)

    return jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(layer, x, router_input)


@partial(jax.jit, static_argnames="train")
def call(layer, x, **options):
    return layer(x, **options)


def assert_same(a, b):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), a, b)


# Shapes


@in_each_kind
def test_masks_of_every_shape_that_broadcasts_are_the_full_mask(name):
    layer, x = make(name), draw(G, T, D)
    row, column = np.arange(T) < 4, np.arange(G)[:, None] < 2
    for small in (row, row[None], column):
        (y, routing), (want, of_full) = (call(layer, x, mask=mask) for mask in (small, np.broadcast_to(small, (G, T))))
        np.testing.assert_array_equal(y, want)
        assert routing.mask.shape == of_full.mask.shape
        assert_same(routing, of_full)


@in_each_kind
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mask": np.ones(T + 1, bool)}, r"mask has the shape \(7,\); one entry a token of x makes it \(3, 6\)"),
        ({"mask": np.ones(G, bool)}, r"mask has the shape \(3,\); one entry a token"),
        ({"mask": np.ones((G, T, 1), bool)}, r"mask has the shape \(3, 6, 1\); one entry a token"),
        ({"mask": np.ones((G, T), int)}, r"mask has the dtype int\d\d; it must be bool, .* \(try mask != 0\)"),
        ({"mask": np.ones((G, T), np.float32)}, "mask has the dtype float32; it must be bool"),
        ({"router_input": draw(G, T, D + 1)}, r"router_input has the shape \(3, 6, 9\); the router reads 8 numbers"),
        ({"router_input": draw(G, T + 1, D)}, r"router_input has the shape \(3, 7, 8\); one entry a token of x"),
    ],
)
def test_arrays_of_tokens_that_do_not_fit_are_one_sentence(name, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(name)(draw(G, T, D), **options)


def test_so_are_ids_assignments_and_tokens():
    sparse, dense = make("hash"), make("dense")
    for layer, options, sentence in (
        (sparse, {"ids": np.ones((G, T + 1), int)}, r"ids has the shape \(3, 7\); one entry a token"),
        (
            sparse,
            {"starts": np.ones((G, T), int)},
            r"starts has the dtype int\d\d; it must be bool, .*\(try starts != 0",
        ),
        (sparse, {"ids": np.ones((G, T))}, "ids has the dtype float32; it must be whole numbers"),
        (sparse, {"given": np.ones((G, T), int)}, r"given has the shape \(3, 6\); one entry a token of x makes it"),
        (sparse, {"given": np.ones((G, T, 3), int)}, r"given has the shape \(3, 6, 3\); .* make it \(3, 6, 2\)"),
        (sparse, {"given": np.ones((G, T, 2))}, "given has the dtype float32; it must be whole numbers"),
        (
            make("expert_choice"),
            {"given": np.ones((G, T, 2), int)},
            "given holds experts for each token, but with ExpertChoice experts choose tokens",
        ),
        (dense, {"assigned": np.ones((T, G), int)}, r"assigned has the shape \(6, 3\); one entry a token"),
    ):
        with pytest.raises(ValueError, match=sentence):
            layer(draw(G, T, D), **options)
    for x, sentence in (
        (draw(G, T, D + 1), r"x has the shape \(3, 6, 9\); the router reads 8 numbers a token"),
        (draw(D), r"x has the shape \(8,\); tokens come as \[..., t, d\]"),
        (np.ones((G, T, D), int), r"x has the dtype int\d\d; it must be floating-point numbers"),
    ):
        for layer in (sparse, dense, make("soft")):
            with pytest.raises(ValueError, match=sentence):
                layer(x)


@in_each_kind
def test_tokens_come_with_any_axes_before_them_or_none_and_from_numpy(name):
    layer, x = make(name), draw(2, G, T, D)
    mask = np.random.default_rng(1).random((2, G, T)) < 0.7
    y, _ = layer(x, mask=mask)
    want, _ = layer(jnp.asarray(x).reshape(2 * G, T, D), mask=jnp.asarray(mask).reshape(2 * G, T))
    assert isinstance(y, jax.Array)
    np.testing.assert_allclose(y.reshape(want.shape), want, rtol=1e-5, atol=1e-6)
    y, _ = call(layer, x[0, 0], mask=mask[0, 0])
    want, _ = call(layer, x[0, :1], mask=mask[0, :1])
    np.testing.assert_array_equal(y, want[0])


@everywhere
def test_no_tokens_at_all_give_no_output_and_finite_losses_and_gradients(name):
    nothing = np.zeros((0, T, D), np.float32)
    (_, (y, values)), gradients = all_of(make(name), nothing, nothing, None)
    assert y.shape == nothing.shape
    assert all(np.isfinite(a).all() for a in jax.tree.leaves((values, gradients)))


@in_each_kind
def test_no_tokens_of_any_shape(name):
    for shape in ((G, 0), (0,), (2, 0, T)):
        for train in (False, True):
            assert call(make(name), draw(*shape, D), train=train)[0].shape == (*shape, D)


def test_a_large_group_costs_what_its_tokens_need():
    def flops(**options):
        layer = SparseMoE(D, E, mlp, rngs=nnx.Rngs(0), **options)
        compiled = jax.jit(lambda x: layer(x, train=True)).lower(draw(1, 24, D)).compile()
        return compiled.cost_analysis()["flops"]

    # The slots of a whole group as far as 24 tokens can fill them: as many as they need if nothing is dropped.
    for dispatch in ("einsum", "gather"):
        needed = flops(group_size=24, capacity_factor=None, dispatch=dispatch)
        assert flops(group_size=4096, dispatch=dispatch) <= 1.01 * needed


# Padding


@everywhere
def test_what_stands_in_padding_reaches_nothing(name):
    layer, x, other = make(name), draw(G, T, D), draw(G, T, D, seed=2)
    mask = np.random.default_rng(1).random((G, T)) < 0.6
    bad = np.where(np.arange(D) % 2, np.nan, np.inf)
    clean = all_of(layer, x, other, mask)
    got = all_of(layer, *(np.where(mask[..., None], a, bad).astype(np.float32) for a in (x, other)), mask)
    assert_same(got, clean)
    (_, (y, _)), (_, *gradients) = got
    for a in (y, *gradients):
        np.testing.assert_array_equal(np.asarray(a)[~mask], 0)  # a shared expert's, too
        assert name == "hash" or np.asarray(a)[mask].any()


# Training


@pytest.mark.parametrize("router", moejax.ROUTERS)
def test_a_single_choice_teaches_the_router_or_is_refused(router):
    if router in ("hash", "random"):
        return
    build = partial(SparseMoE, D, E, mlp, k=1, router=router, rngs=nnx.Rngs(0))
    if router in ("top_k_softmax", "noisy_top_k"):
        with pytest.raises(
            ValueError, match=f"k is 1, which gives the router {router} no gradient: .*; use (switch|vmoe)"
        ):
            build()
        with pytest.raises(ValueError, match="k is 1, which gives"):
            moejax.ROUTERS[router](D, E, 1, rngs=nnx.Rngs(0))
        return
    layer, x, context = build(), draw(G, T, D), Context(True, jax.random.key(0))
    gradient = jax.jit(jax.grad(lambda router: (router(x, T, context).gates ** 2).sum()))(layer.router)
    assert np.abs(gradient.kernel[...]).max() > 1e-6


class Dropping(MLP):
    """An MLP with dropout before its first map, also applicable to groups."""

    draws = True

    def __call__(self, x, linear=lambda f, x: f(x), *, key=None):
        return super().__call__(dropout(key, x, 0.5), linear)


@pytest.mark.parametrize("name", ["dense", "soft", "gather", "grouped"])
def test_experts_that_draw_get_a_key_under_every_dispatch_or_say_so(name):
    layer, x = LAYERS[name](D, E, dropping, rngs=nnx.Rngs(0)), draw(G, T, D)
    one, again, other = (call(layer, x, train=True, key=jax.random.key(seed))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3
    np.testing.assert_array_equal(call(layer, x)[0], call(layer, x, key=jax.random.key(0))[0])
    with pytest.raises(ValueError, match="key is None, but Dropping draws random numbers in training; pass key="):
        layer(x, train=True)


class Noise(nnx.Module):
    """An expert without parameters."""

    draws = True

    def __init__(self, rngs):
        pass

    def __call__(self, x, *, key=None):
        return x if key is None else x + jax.random.normal(key, x.shape)


@pytest.mark.parametrize("name", ["dense", "soft", "gather"])
def test_experts_without_parameters_are_copies_that_draw_apart(name):
    layer, x = LAYERS[name](D, E, Noise, rngs=nnx.Rngs(0)), draw(G, T, D)
    y, noisy = call(layer, x)[0], call(layer, x, train=True, key=jax.random.key(0))[0]
    assert y.shape == x.shape
    assert np.abs(noisy - y).max() > 1e-3
    if name == "dense":  # whose gates sum to 1
        np.testing.assert_allclose(y, x, rtol=1e-5, atol=1e-6)


def test_rngs_give_a_key_as_they_give_dropout_one():
    layer, x = LAYERS["gather"](D, E, dropping, router="vmoe", rngs=nnx.Rngs(0)), draw(G, T, D)
    for rngs in (nnx.Rngs(3), nnx.Rngs(0, dropout=3), nnx.Rngs(params=0, dropout=3), nnx.Rngs(dropout=3).dropout):
        first, second = (layer(x, train=True, rngs=rngs)[0] for _ in range(2))
        stream = nnx.Rngs(3)["dropout"]
        np.testing.assert_array_equal(first, layer(x, train=True, key=stream())[0])
        np.testing.assert_array_equal(second, layer(x, train=True, key=stream())[0])
        assert np.abs(first - second).max() > 1e-3
        before = int(getattr(rngs, "dropout", rngs).count[...])
        np.testing.assert_array_equal(layer(x, rngs=rngs)[0], layer(x)[0])
        assert int(getattr(rngs, "dropout", rngs).count[...]) == before  # nothing is drawn at evaluation


def test_a_shared_expert_and_a_gate_that_draw_get_a_key_or_say_so():
    x = draw(G, T, D)
    shared = SparseMoE(D, E, mlp, make_shared=dropping, rngs=nnx.Rngs(0))

    class Gate(Dropping):
        def __call__(self, x, *, key=None):
            return super().__call__(x, key=key)[..., :E]

    gated = DenseMoE(D, E, mlp, make_gate=lambda rngs: Gate(D, 16, rngs=rngs), rngs=nnx.Rngs(0))
    for layer in (shared, gated):
        one, other = (layer(x, train=True, key=jax.random.key(seed))[0] for seed in (0, 1))
        assert np.abs(one - other).max() > 1e-4
        with pytest.raises(ValueError, match=r"key is None, but (Dropping|Gate) draws"):
            layer(x, train=True)


@pytest.mark.parametrize("kind", [lambda rngs: nnx.Dropout(0.5, rngs=rngs), lambda rngs: nnx.BatchNorm(D, rngs=rngs)])
@pytest.mark.parametrize("name", ["dense", "einsum"])
def test_experts_that_change_while_they_run_are_refused(name, kind):
    def make_expert(rngs):
        return nnx.Sequential(nnx.Linear(D, D, rngs=rngs), kind(rngs))

    with pytest.raises(ValueError, match=r"make_expert made a \w+ with layers\.1\.\S+, which changes in every call"):
        LAYERS[name](D, E, make_expert, rngs=nnx.Rngs(0))
    other = {"dense": "make_gate", "einsum": "make_shared"}[name]
    with pytest.raises(ValueError, match=rf"{other} made a \w+ with layers\.1\.\S+, which changes in every call"):
        LAYERS[name](D, E, mlp, **{other: make_expert}, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("width", [1, E + 1])
def test_a_gate_of_another_width_is_one_sentence(width):
    layer = DenseMoE(D, E, mlp, make_gate=lambda rngs: nnx.Linear(D, width, rngs=rngs), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=rf"make_gate made a Linear whose output has the shape \(1, 5, {width}\)"):
        layer(jnp.zeros((5, D)))


def test_under_jit_an_expert_that_is_not_there_gives_its_token_no_number_and_padding_any():
    layer = DenseMoE(D, E, mlp, rngs=nnx.Rngs(0))
    mask, assigned = jnp.array([True, True, False]), jnp.array([0, E, -1])
    y, routing = jax.jit(lambda x: layer(x, mask=mask, assigned=assigned))(jnp.ones((3, D)))
    np.testing.assert_array_equal(np.isnan(y).any(-1), [False, True, False])
    assert np.isfinite(routing.gates[0, [0, 2]]).all()
