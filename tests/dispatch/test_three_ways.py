"""einsum, gather and grouped are one function: the same outputs, gradients, drops and losses, with real experts too."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import ClosedJaxpr, Jaxpr
from reference import draw
from seldom import slow_but_for

from moejax.dispatch import einsum_dispatch, gather_dispatch, grouped_dispatch
from moejax.experts import GLU, MLP, apply_experts, apply_experts_to_groups, stack_experts
from moejax.kernels.grouped_matmul import grouped_matmul
from moejax.kernels.multilinear import inside
from moejax.losses import importance_loss, load_balance_loss, router_z_loss, sparsity_loss
from moejax.metrics import dropped, load
from moejax.routing import assign, expert_choice, mask_tokens, relu_routing, softmax_top_k

few = settings(max_examples=10)
G, T, E, D, H, K, C = 2, 6, 5, 3, 7, 2, 3
WAYS = ["einsum", "gather", "grouped"]


EXPERTS = {"mlp": MLP, "glu": GLU}


def make(kind, seed=0, dtype=None):
    def build():
        return stack_experts(lambda rngs: EXPERTS[kind](D, H, dtype=dtype, rngs=rngs), E, nnx.Rngs(0))

    return reference.randomly_filled(build, seed)


def dispatched(way, experts, x, routing, capacity):
    if way == "grouped":
        return grouped_dispatch(partial(apply_experts_to_groups, experts), x, routing)
    slots = {"einsum": einsum_dispatch, "gather": gather_dispatch}[way]
    return slots(partial(apply_experts, experts), x, routing, capacity)


def route(logits, mask, choice="tokens", capacity=C, k=K):
    if choice == "experts":
        return expert_choice(logits, capacity, mask)
    if choice == "relu":
        return assign(mask_tokens(relu_routing(logits, 0.5), mask), capacity)
    return assign(mask_tokens(softmax_top_k(logits, k), mask), capacity)


@partial(jax.jit, static_argnames=("way", "choice"))
def everything(experts, x, logits, mask, *, way, choice="tokens"):
    """y, the gradients of a loss with auxiliary parts by experts, tokens and logits, and drops and load."""

    def loss(experts, x, logits):
        routing = route(logits, mask, choice)
        y = dispatched(way, experts, x, routing, C)
        auxiliary = importance_loss(routing) + router_z_loss(routing)
        if choice != "experts":
            auxiliary += load_balance_loss(routing) + sparsity_loss(routing)
        metrics = dropped(routing), load(routing, after_capacity=True)
        return jnp.sin(y).sum() + auxiliary, (y, auxiliary, metrics)

    (_, out), gradients = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(experts, x, logits)
    return out, gradients


def assert_all_close(got, want):
    # float32 sums of some 10 terms of size 10
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), got, want)


def skewed(seed):
    """Logits that crowd experts 0 and 1 and leave the last one alone."""
    return draw(seed, G, T, E) + jnp.array([3.0, 2, 0, 0, -50])[None, None]


@pytest.mark.parametrize("kind", EXPERTS)
@few
@given(st.integers(0, 1000), st.booleans(), st.booleans())
def test_the_three_ways_give_the_same_outputs_gradients_drops_and_losses(kind, seed, padded, crowded):
    experts, x, logits = make(kind, seed), draw(seed, G, T, D), skewed(seed) if crowded else draw(seed + 1, G, T, E)
    mask = jnp.asarray(np.random.default_rng(seed).random((G, T)) < (0.6 if padded else 1))
    einsum, gather, grouped = (everything(experts, x, logits, mask, way=way) for way in WAYS)
    assert_all_close(gather, einsum)
    assert_all_close(grouped, einsum)
    np.testing.assert_array_equal(np.asarray(grouped[0][0])[~np.asarray(mask)], 0)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_equals_a_loop_over_tokens(way):
    experts, x, logits = make("mlp"), draw(0, G, T, D), skewed(1)
    mask = jnp.asarray(np.arange(T) < [[4], [6]])
    (y, _, (drops, _)), _ = everything(experts, x, logits, mask, way=way)
    p = {"up": experts.up.kernel, "up_bias": experts.up.bias}
    p |= {"down": experts.down.kernel, "down_bias": experts.down.bias}
    p = {name: np.asarray(value[...], np.float64) for name, value in p.items()}
    routing = route(logits, mask)
    want = reference.sparse_apply(partial(reference.mlp, p), np.asarray(x, np.float64), routing)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
    assert drops > 0


@pytest.mark.parametrize("kind", ["mlp", "glu"])
@pytest.mark.parametrize("padded", [False, True])
def test_einsum_and_gather_agree_for_expert_choice(kind, padded):
    experts, x, logits = make(kind), draw(0, G, T, D), skewed(1)
    # In the second group fewer real tokens than an expert has slots.
    mask = jnp.asarray(np.arange(T) < [[5], [2]]) if padded else jnp.ones((G, T), bool)
    einsum, gather = (everything(experts, x, logits, mask, way=way, choice="experts") for way in WAYS[:2])
    assert_all_close(gather, einsum)
    np.testing.assert_array_equal(np.asarray(gather[0][0])[~np.asarray(mask)], 0)
    want = reference.expert_choice(np.asarray(logits[1], np.float64), C, np.asarray(mask[1]))
    np.testing.assert_array_equal(route(logits, mask, "experts").tokens[1], want[0])


def test_the_three_ways_agree_for_tokens_of_any_number_of_experts():
    experts, x = make("mlp"), draw(0, G, T, D)
    logits = draw(1, G, T, E).at[0, 1].set(-1.0)  # none
    mask = jnp.asarray(np.arange(T) < [[5], [6]])
    einsum, gather, grouped = (everything(experts, x, logits, mask, way=way, choice="relu") for way in WAYS)
    assert_all_close(gather, einsum)
    assert_all_close(grouped, einsum)
    (y, _, (drops, _)), _ = einsum
    np.testing.assert_array_equal(np.asarray(y)[0, 1], np.zeros(D))
    assert drops > 0
    p = {"up": experts.up.kernel, "up_bias": experts.up.bias}
    p |= {"down": experts.down.kernel, "down_bias": experts.down.bias}
    p = {name: np.asarray(value[...], np.float64) for name, value in p.items()}
    want = reference.sparse_apply(partial(reference.mlp, p), np.asarray(x, np.float64), route(logits, mask, "relu"))
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", EXPERTS)
def test_an_expert_without_tokens_has_exactly_no_gradient(way, kind):
    # The last expert is never chosen.
    mask = jnp.ones((G, T), bool)
    _, (by_experts, _, _) = everything(make(kind), draw(0, G, T, D), skewed(1), mask, way=way)
    for gradient in jax.tree.leaves(by_experts):
        np.testing.assert_array_equal(gradient[-1], np.zeros(gradient.shape[1:]))
        assert np.any(gradient[0])


@pytest.mark.parametrize("way", WAYS)
def test_padding_neither_gets_an_answer_nor_gives_a_gradient(way):
    experts, x, logits = make("mlp"), draw(0, G, T, D), draw(1, G, T, E)
    mask = jnp.asarray(np.arange(T) < [[4], [6]])
    first = everything(experts, x, logits, mask, way=way)
    pad = ~mask[..., None]
    other = everything(experts, jnp.where(pad, 100, x), jnp.where(pad, 9, logits), mask, way=way)
    (y, _, _), (_, by_x, by_logits) = first
    for values in (y, by_x, by_logits):
        np.testing.assert_array_equal(np.asarray(values)[~np.asarray(mask)], 0)
    assert_all_close(other, first)  # what padding holds does not matter


@pytest.mark.parametrize(("tokens", "num_experts", "k", "capacity"), [(1, 5, 2, 1), (6, 5, 5, 1)])
def test_the_three_ways_agree_at_the_edges(tokens, num_experts, k, capacity):
    w, x, logits = draw(0, num_experts, D, H), draw(1, 1, tokens, D), draw(2, 1, tokens, num_experts)

    @jax.jit
    def gradients(w, x, logits):
        def y(way, w, x, logits):
            routing = route(logits, None, capacity=capacity, k=k)
            if way == "grouped":
                return grouped_dispatch(lambda rows, groups: grouped_matmul(rows, w, groups), x, routing)
            slots = {"einsum": einsum_dispatch, "gather": gather_dispatch}[way]
            return slots(lambda slots: jnp.einsum("egcd,edh->egch", slots, w), x, routing, capacity)

        def loss(way, *arguments):
            return (y(way, *arguments) ** 2).sum()

        return [(y(way, w, x, logits), jax.grad(partial(loss, way), argnums=(0, 1, 2))(w, x, logits)) for way in WAYS]

    einsum, gather, grouped = gradients(w, x, logits)
    assert_all_close(gather, einsum)
    assert_all_close(grouped, einsum)


@pytest.mark.parametrize("way", slow_but_for(WAYS, "gather"))
def test_bfloat16_tokens_give_bfloat16_answers_and_a_float32_router_gradient(way):
    x, logits, mask = draw(0, G, T, D), draw(1, G, T, E), jnp.ones((G, T), bool)
    half = make("mlp", dtype=jnp.bfloat16)
    (y, _, _), (by_experts, by_x, by_logits) = everything(half, x.astype(jnp.bfloat16), logits, mask, way=way)
    (want, _, _), (_, _, want_by_logits) = everything(make("mlp"), x, logits, mask, way=way)
    assert y.dtype == by_x.dtype == jnp.bfloat16
    assert by_logits.dtype == jnp.float32
    assert {a.dtype for a in jax.tree.leaves(by_experts)} == {jnp.dtype("float32")}
    # 8 bits, through two products of up to 7 terms of size 1
    np.testing.assert_allclose(np.asarray(y, np.float32), want, rtol=0.05, atol=0.15)
    np.testing.assert_allclose(by_logits, want_by_logits, rtol=0.1, atol=0.15)


@pytest.mark.parametrize("way", slow_but_for(["gather", "grouped"], "grouped"))
def test_vmap_and_remat_change_nothing(way):
    experts, mask = make("mlp"), jnp.ones((G, T), bool)
    x, logits = draw(0, 3, G, T, D), draw(1, 3, G, T, E)

    def loss(x, logits):
        return jnp.sin(dispatched(way, experts, x, route(logits, mask), C)).sum()

    gradients = jax.grad(loss, argnums=(0, 1))
    want = jax.lax.map(lambda each: gradients(*each), (x, logits))

    @jax.jit
    def other(x, logits):
        return jax.vmap(gradients)(x, logits), jax.grad(jax.checkpoint(loss), argnums=(0, 1))(x[0], logits[0])

    together, again = other(x, logits)
    assert_all_close(together, want)
    assert_all_close(again, tuple(a[0] for a in want))


# What gather and grouped must not do


def equations(jaxpr):
    """All equations of a jaxpr and of those within them."""
    for equation in jaxpr.eqns:
        yield equation
        for value in (*equation.params.values(), *inside(equation)):
            for inner in value if isinstance(value, tuple | list) else [value]:
                if isinstance(inner, ClosedJaxpr):
                    yield from equations(inner.jaxpr)
                elif isinstance(inner, Jaxpr):
                    yield from equations(inner)


def wide_scatters(jaxpr, widths):
    """Scatters into floating-point arrays whose rows are as wide as the activations."""
    return [
        e
        for e in equations(jaxpr)
        if "scatter" in e.primitive.name
        and any(jnp.issubdtype(v.aval.dtype, jnp.floating) and v.aval.shape[-1] in widths for v in e.outvars)
    ]


# Widths that no other axis has, and fewer slots than E copies of the tokens.
WIDE, HIDDEN, TOKENS, MANY, SLOTS = 37, 41, 12, 8, 4


def gradient_jaxpr(way):
    x, logits = draw(0, G, TOKENS, WIDE), draw(1, G, TOKENS, MANY)
    experts = stack_experts(lambda rngs: MLP(WIDE, HIDDEN, rngs=rngs), MANY, nnx.Rngs(0))

    def loss(experts, x, logits):
        return (dispatched(way, experts, x, route(logits, None, capacity=SLOTS), SLOTS) ** 2).sum()

    return jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(experts, x, logits).jaxpr


@pytest.mark.parametrize("way", ["gather", "grouped"])
def test_no_activation_is_scattered_in_either_direction(way):
    program = gradient_jaxpr(way)
    assert not wide_scatters(program, {WIDE, HIDDEN})
    # Both directions move rows, and the walk sees it.
    assert sum(e.primitive.name == "gather" and e.outvars[0].aval.shape[-1] == WIDE for e in equations(program)) >= 4


def test_that_check_finds_the_scatter_of_a_plain_gather():
    naive = jax.make_jaxpr(jax.grad(lambda x: (x[jnp.array([0, 2, 1])] ** 2).sum()))(jnp.ones((4, WIDE)))
    assert wide_scatters(naive.jaxpr, {WIDE})


@pytest.mark.parametrize(("way", "rows"), [("gather", MANY * G * SLOTS), ("grouped", G * TOKENS * K)])
def test_no_array_is_as_large_as_all_tokens_for_every_expert(way, rows):
    assert rows < MANY * G * TOKENS
    sizes = set()
    for equation in equations(gradient_jaxpr(way)):
        for shape in (v.aval.shape for v in equation.outvars if hasattr(v.aval, "shape")):
            parameter = shape[:1] == (MANY,) and set(shape[1:]) <= {WIDE, HIDDEN}
            if set(shape) & {WIDE, HIDDEN} and not parameter:
                sizes.add(int(np.prod([n for n in shape if n not in (WIDE, HIDDEN)])))
    assert max(sizes) == rows
