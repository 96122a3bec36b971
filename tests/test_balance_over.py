"""The load-balance loss over each sequence, each micro-batch and the global batch: by hand, by loops, part by part."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from reference import best, draw, softmax
from test_losses import routed

from moejax import MLP, SparseMoE, auxiliary_loss, load_balance_loss, metrics
from moejax.routing import dense_routing, mask_tokens, softmax_top_k

E, K = 5, 2
OVER = ("sequence", "micro_batch", "global_batch")


def balance_of(logits, k=K):
    """The loss of some tokens [t, e], and its gradient, in float64."""
    f, probs = np.zeros(logits.shape[1]), np.array([softmax(token) for token in logits])
    for p in probs:
        f[best(p, k)] += 1 / (k * len(logits))
    # f is constant, and d(f · p)/dz = p · (f - f · p)
    return len(f) * f @ probs.mean(0), len(f) / len(logits) * probs * (f - probs @ f[:, None])


def mean_of(parts):
    """The mean of the losses of such parts, and its gradient."""
    found = [balance_of(part) for part in parts]
    return np.mean([value for value, _ in found]), np.concatenate([gradient for _, gradient in found]) / len(found)


def assert_close(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)


def test_two_sequences_of_one_expert_each_by_hand():
    # Each sequence is as uneven as can be: 2 · (1 · .75) = 1.5. Together they are even: 2 · (.5 · .5 + .5 · .5) = 1.
    routing = routed([[0.75, 0.25]] * 2 + [[0.25, 0.75]] * 2, [[0]] * 2 + [[1]] * 2)
    routing = routing._replace(starts=jnp.array([[True, False, True, False]]))
    np.testing.assert_allclose(load_balance_loss(routing), 1, rtol=1e-6)
    np.testing.assert_allclose(load_balance_loss(routing, over="sequence"), 1.5, rtol=1e-6)
    halves = jax.tree.map(lambda a: a.reshape(2, 2, *a.shape[2:]), routing)
    np.testing.assert_allclose(load_balance_loss(halves, over="micro_batch", micro_batches=2), 1.5, rtol=1e-6)
    np.testing.assert_allclose(load_balance_loss(halves, over="micro_batch"), 1, rtol=1e-6)
    # Without the second sequence, which has no token but padding, the first is alone.
    alone = mask_tokens(routing, jnp.array([[True, True, False, False]]))
    np.testing.assert_allclose(load_balance_loss(alone, over="sequence"), 1.5, rtol=1e-6)
    # A third token of the first sequence, wherever the groups are cut: 2 · (2/3 · 1.75/3 + 1/3 · 1.25/3), and 1.5.
    longer = routing._replace(starts=jnp.array([[True, False, False, True]]))
    np.testing.assert_allclose(load_balance_loss(longer, over="sequence"), (19 / 18 + 1.5) / 2, rtol=1e-6)


TOKENS = 12


@jax.jit
def of_sequences(logits, starts, mask):
    """Of tokens in groups of 4."""

    def loss(logits):
        routing = mask_tokens(softmax_top_k(logits.reshape(3, 4, E), K), mask.reshape(3, 4))
        return load_balance_loss(routing._replace(starts=starts.reshape(3, 4)), over="sequence")

    return jax.value_and_grad(loss)(logits)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.lists(st.integers(1, 5), min_size=1, max_size=5).filter(lambda n: sum(n) <= TOKENS))
def test_sequences_of_any_lengths_equal_a_loop(seed, lengths):
    rng = np.random.default_rng(seed)
    logits, ends = rng.normal(size=(TOKENS, E)), np.cumsum(lengths)
    starts, mask = (
        np.isin(np.arange(TOKENS), ends - lengths),
        (np.arange(TOKENS) < ends[-1]) & (rng.random(TOKENS) < 0.8),
    )
    parts = [part[real] for part, real in zip(np.split(logits, ends), np.split(mask, ends), strict=True) if real.any()]
    value, gradient = of_sequences(np.float32(logits), starts, mask)
    want = np.zeros((TOKENS, E))
    if parts:
        np.testing.assert_allclose(value, mean_of(parts)[0], rtol=1e-5)
        want[mask] = mean_of(parts)[1]
    np.testing.assert_allclose(gradient, want, rtol=1e-4, atol=1e-6)


LOGITS = draw(0, 4, 6, E)


@jax.jit
def whole(logits):
    return jax.value_and_grad(lambda logits: load_balance_loss(softmax_top_k(logits, K)))(logits)


def test_the_losses_of_parts_by_the_load_of_the_whole_have_its_mean_and_gradient():
    @jax.jit
    def of_part(logits, load):
        return jax.value_and_grad(lambda logits: load_balance_loss(softmax_top_k(logits, K), global_load=load))(logits)

    loads = [metrics.load(softmax_top_k(part, K)) for part in LOGITS[:, None]]
    for load in (sum(loads) / 4, sum(loads), softmax_top_k(LOGITS, K).choices.sum((0, 1))):
        values, gradients = zip(*(of_part(part, load) for part in LOGITS[:, None]), strict=True)
        assert_close((sum(values) / 4, jnp.concatenate(gradients) / 4), whole(LOGITS))


def test_over_devices_the_mean_of_their_loads_makes_their_losses_those_of_the_whole():
    mesh = jax.make_mesh((4,), ("devices",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])

    def of_device(logits):
        routing = softmax_top_k(logits, K)
        return load_balance_loss(routing, global_load=jax.lax.pmean(metrics.load(routing), "devices"))

    mapped = jax.shard_map(lambda x: of_device(x)[None], mesh=mesh, in_specs=P("devices"), out_specs=P("devices"))
    assert_close(jax.jit(jax.value_and_grad(lambda x: mapped(x).mean()))(LOGITS), whole(LOGITS))
    values, gradients = jax.pmap(jax.value_and_grad(of_device), "devices", devices=jax.devices()[:4])(LOGITS[:, None])
    assert_close((values.mean(), gradients[:, 0] / 4), whole(LOGITS))


def make_layer(**options):
    return SparseMoE(8, E, partial(MLP, 8, 8), dispatch="gather", rngs=nnx.Rngs(0), **options)


@jax.jit
def call(layer, x, **inputs):
    return layer(x, **inputs)[1]


def test_a_layer_knows_the_rows_of_its_input_whatever_its_groups():
    x = draw(1, 3, 7, 8)
    sequence = jax.jit(partial(load_balance_loss, over="sequence"))
    rows = call(make_layer(group_size=0), x)
    want = np.mean([balance_of(np.float64(row))[0] for row in rows.logits])
    for size in (0, 4, 10, 64):
        routing = call(make_layer(group_size=size), x)
        np.testing.assert_allclose(sequence(routing), want, rtol=1e-5)
    # The same tokens, packed: two sequences in the first row, and one that begins in the second and ends in the third.
    starts = jnp.zeros((3, 7), bool).at[[0, 0, 1], [0, 3, 0]].set(True)
    logits = np.float64(rows.logits).reshape(-1, E)
    parts = np.split(logits, [3, 7])
    packed = call(make_layer(group_size=4), x, starts=starts)
    np.testing.assert_allclose(sequence(packed), np.mean([balance_of(part)[0] for part in parts]), rtol=1e-5)
    assert sequence(call(make_layer(), x[:0])) == 0


@pytest.mark.parametrize("over", ["sequence", "micro_batch"])
def test_on_a_mesh_it_is_the_same_with_auto_and_with_explicit_axes(over):
    layer, x = make_layer(), draw(2, 8, 5, 8)
    options = {"over": over, "micro_batches": 2 if over == "micro_batch" else 1}

    @jax.jit
    def loss(layer, x):
        return jax.value_and_grad(lambda layer: load_balance_loss(layer(x)[1], **options))(layer)

    want = loss(layer, x)
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4, 1), ("data", "expert"), axis_types=(kind,) * 2, devices=jax.devices()[:4])
        with jax.set_mesh(mesh):
            got = loss(
                jax.tree.map(jax.device_put, layer, nnx.get_named_sharding(layer, mesh)),
                jax.device_put(x, NamedSharding(mesh, P("data"))),
            )
        assert_close(got, want)


def test_the_auxiliary_loss_passes_all_this_on():
    routings = [call(make_layer(), draw(seed, 2, 6, 8)) for seed in (3, 4)]
    for over in OVER:
        options = {"over": over, "micro_batches": 2 if over == "micro_batch" else 1}
        want = sum(load_balance_loss(r, **options) for r in routings)
        got = auxiliary_loss(routings, balance=1.0, z=0.0, balance_over=over, micro_batches=options["micro_batches"])
        np.testing.assert_allclose(got, want, rtol=1e-6)
    loads = [jnp.arange(5.0), jnp.arange(5.0, 0, -1)]
    want = sum(load_balance_loss(r, global_load=load) for r, load in zip(routings, loads, strict=True))
    np.testing.assert_allclose(auxiliary_loss(routings, balance=1.0, z=0.0, global_loads=loads), want, rtol=1e-6)
    # A layer that chooses nothing has no use for its load.
    assert auxiliary_loss([dense_routing(LOGITS)], balance=1.0, global_loads=loads[:1]) == 0


def test_a_micro_batch_of_nothing_but_padding_counts_nowhere():
    mask = jnp.ones(LOGITS.shape[:2], bool).at[2:].set(False)
    routing = mask_tokens(softmax_top_k(LOGITS, K), mask)
    first = mask_tokens(softmax_top_k(LOGITS[:2], K), None)
    want = load_balance_loss(first)
    np.testing.assert_allclose(load_balance_loss(routing, over="micro_batch", micro_batches=2), want, rtol=1e-6)


def test_what_makes_no_sense_is_one_sentence():
    routing = softmax_top_k(LOGITS, K)
    for options, sentence in (
        ({"over": "batch"}, "over is batch; it must be one of sequence, micro_batch, global_batch"),
        ({"over": "sequence"}, "over is sequence, but nothing says where a sequence begins; give the routing that a"),
        ({"over": "micro_batch", "micro_batches": 3}, "micro_batches is 3, which does not divide the 4 groups of"),
        ({"micro_batches": 2}, "micro_batches is 2, but over is global_batch; it has an effect only where over is mi"),
        ({"micro_batches": 0}, "micro_batches is 0; it must be a whole number from 1 to"),
        ({"over": "sequence", "global_load": jnp.ones(E)}, "global_load is the load of a global batch, but over is"),
    ):
        with pytest.raises(ValueError, match=f"^{sentence}"):
            load_balance_loss(routing, **options)
    with pytest.raises(ValueError, match=r"^global_loads are 2 for 1 routings; give one for each"):
        auxiliary_loss(routing, global_loads=[jnp.ones(E)] * 2)
