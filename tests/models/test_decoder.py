"""The decoder: no token sees a later one, a cache changes nothing, and each option does what it says."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from seldom import slow_but_for

from moejax.config import make_config
from moejax.errors import UserError
from moejax.models import build_model, notes
from moejax.models.attention import attend, rotated, visible
from moejax.models.decoder import Decoder, positions_of_slots

VOCABULARY, LENGTH = 11, 12
SPARSE = dict(layer="sparse", num_experts=4, hidden=8, k=2, dispatch="grouped")
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, VOCABULARY, (2, 30)), jnp.uint8)


def config(moe=SPARSE, length=LENGTH, train=None, **model):
    return make_config(
        data=dict(name="python", length=length),
        model=dict(name="decoder", width=16, depth=2, heads=4) | model,
        moe=moe,
        train=train or {},
    )


def decoder(**options) -> Decoder:
    return jax.jit(lambda: build_model(config(**options), VOCABULARY, nnx.Rngs(1)))()


def read(model, tokens, **options):
    return jax.jit(lambda model, tokens: model({"tokens": tokens}, train=False, **options)[0])(model, tokens)


KINDS = {
    "sparse": {},
    "dense": dict(moe=dict(layer="dense", num_experts=2, hidden=8)),
    "few keys": dict(key_heads=2, normalize_queries=True, tied=False),
    "every other block": dict(moe_every=2, depth=3, moe=SPARSE | dict(shared=8, router="sigmoid")),
    "by its token": dict(moe=SPARSE | dict(router="hash")),
    "with slots": dict(moe=SPARSE | dict(dispatch="gather", group_size=0, eval_capacity_factor=None)),
}


def test_a_text_with_a_number_that_is_no_token_has_no_answer():
    tokens = jnp.array([[1, 2, VOCABULARY, 3], [1, -1, 2, 3], [1, 2, 3, 4]])
    known = np.isfinite(read(decoder(), tokens)).any((1, 2))
    np.testing.assert_array_equal(known, [False, False, True])


SOME = slow_but_for(KINDS, "every other block")


@pytest.mark.parametrize("kind", SOME)
def test_no_token_sees_a_later_one(kind):
    model = decoder(**KINDS[kind])
    changed = TOKENS[:, :LENGTH].at[:, 7:].add(1) % VOCABULARY
    before, after = read(model, TOKENS[:, :LENGTH]), read(model, changed)
    np.testing.assert_allclose(before[:, :7], after[:, :7], atol=1e-5)
    assert np.abs(before[:, 7] - after[:, 7]).max() > 1e-3


# Layers with slots that may run out, what they say, and whether in training later tokens do change earlier ones.
YIELDING = [
    (dict(k=2, dispatch="gather", capacity_factor=0.5, eval_capacity_factor=None), "moe.capacity_factor 0.5"),
    (dict(k=2, dispatch="grouped", router="sinkhorn"), "moe.router sinkhorn"),
    (dict(k=1, router="switch", dispatch="gather", priority="weight", capacity_factor=0.5), "moe.capacity_factor 0.5 "),
    (dict(k=1, router="switch", dispatch="gather", capacity_factor=0.5), ""),
    (dict(k=2, dispatch="gather", capacity_factor=2.0), ""),
    (dict(k=2, dispatch="gather", capacity_factor=2.0, zero_experts=12), "moe.capacity_factor 2"),
    (dict(k=2, dispatch="grouped"), ""),
]


@pytest.mark.parametrize(("moe", "said"), YIELDING)
def test_where_later_tokens_change_earlier_ones_in_training_it_is_said(moe, said):
    moe = SPARSE | dict(group_size=0) | moe
    model = decoder(moe=moe)
    changed = TOKENS[:, :LENGTH].at[:, 7:].add(1) % VOCABULARY
    train = jax.jit(lambda model, tokens: model({"tokens": tokens}, train=True)[0])
    moved = np.abs(train(model, TOKENS[:, :LENGTH]) - train(model, changed))[:, :7].max()
    assert (moved > 1e-3) == bool(said)
    told = notes(config(moe=moe))
    assert told[0].startswith(f"With {said}") if said else told == ()


@pytest.mark.parametrize("kind", SOME)
def test_a_cache_changes_nothing_also_beyond_its_room(kind):
    model = decoder(**KINDS[kind])
    whole = read(model, TOKENS)
    go_on, cache, parts = jax.jit(lambda m, t, c: m.go_on(t, c)[::2]), model.cache(2), []
    for start, stop in pairwise([0, 5, 6, 7, 20, 21, *range(22, 31)]):
        logits, cache = go_on(model, TOKENS[:, start:stop], cache)
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-5)
    assert int(cache.length) == 30


def test_a_token_sees_the_last_ones_as_far_as_the_window():
    seen = np.asarray(visible(jnp.arange(5), jnp.arange(5), 3)).astype(int)
    want = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
    np.testing.assert_array_equal(seen, want)
    assert np.asarray(positions_of_slots(4, 0)).max() < 0
    np.testing.assert_array_equal(positions_of_slots(4, 2), [0, 1, -2, -1])
    np.testing.assert_array_equal(positions_of_slots(4, 6), [4, 5, 2, 3])


def test_rotary_positions_are_those_of_complex_numbers_and_relative():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, 6, 2, 8)), jnp.float32)
    turned = np.asarray(rotated(x, jnp.arange(6), 100.0))
    turns = np.exp(1j * np.arange(6)[:, None] * 100.0 ** (-np.arange(4) / 4))
    want = (x[..., :4] + 1j * x[..., 4:]) * turns[None, :, None]
    np.testing.assert_allclose(turned, np.concatenate([want.real, want.imag], -1), atol=1e-5)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))
    products = [
        (rotated(q, jnp.array([a]), 100.0) * rotated(k, jnp.array([b]), 100.0)).sum() for a, b in [(7, 3), (4, 0)]
    ]
    np.testing.assert_allclose(*products, atol=1e-5)


def test_an_attention_is_that_of_a_loop():
    model = decoder(key_heads=2)
    attention = model.blocks[0].attention
    x = jax.random.normal(jax.random.key(0), (1, 15, 16))
    y, _ = attention(x, None, 0)
    q, k, v = (
        (x[0] @ np.asarray(part.kernel[...])).reshape(15, -1, 4)
        for part in (attention.query, attention.key, attention.value)
    )
    q, k = (np.asarray(rotated(jnp.asarray(part[None]), jnp.arange(15), 10_000.0))[0] for part in (q, k))
    out = np.zeros((15, 4, 4))
    for t in range(15):
        for head in range(4):
            at = range(max(0, t - LENGTH + 1), t + 1)
            scores = np.array([q[t, head] @ k[s, head // 2] / 2 for s in at])
            weights = np.exp(scores - scores.max())
            out[t, head] = weights / weights.sum() @ np.array([v[s, head // 2] for s in at])
    np.testing.assert_allclose(y[0], out.reshape(15, 16) @ np.asarray(attention.output.kernel[...]), atol=1e-5)


@pytest.mark.parametrize("heads_of_keys", [4, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_derivative_of_attention_is_jax_s_own(dtype, heads_of_keys):
    keys = jax.random.split(jax.random.key(0), 4)
    q, y = (jax.random.normal(key, (2, 9, 4, 6), dtype) for key in keys[:2])
    k, v = (jax.random.normal(key, (2, 13, heads_of_keys, 6), dtype) for key in keys[2:])
    seen = visible(4 + jnp.arange(9), jnp.arange(13), 7)

    def plain(q, k, v, seen):
        return jax.nn.dot_product_attention(q, k, v, mask=seen[None, None])

    @partial(jax.jit, static_argnums=0)
    def both(f, q, k, v, y):
        output, back = jax.vjp(lambda *x: f(*x, seen), q, k, v)
        return output, back(y)

    of = [both(f, q, k, v, y) for f in (attend, plain)]
    np.testing.assert_array_equal(of[0][0], of[1][0])
    for own, jaxs in zip(of[0][1], of[1][1], strict=True):
        assert own.dtype == dtype
        np.testing.assert_allclose(
            np.float32(own), np.float32(jaxs), **dict(atol=1e-5) if dtype == "float32" else dict(atol=0.05)
        )


@pytest.mark.parametrize("name", ["decoder", "encoder"])
def test_at_evaluation_a_key_changes_nothing(name):
    if name == "decoder":
        model, batch = decoder(dropout=0.5), {"tokens": TOKENS[:, :LENGTH]}
    else:
        c = make_config(
            data=dict(name="mrpc_pieces", vocabulary=VOCABULARY),
            model=dict(name="encoder", width=12, heads=2, depth=1, dropout=0.5, moe_every=1),
            moe=SPARSE,
        )
        model, pieces = jax.jit(lambda: build_model(c, 2, nnx.Rngs(0)))(), TOKENS[:, :LENGTH].astype(jnp.int32)
        batch = {"pieces": pieces, "second": jnp.arange(LENGTH)[None] > jnp.array([[5], [6]])}
    call = jax.jit(lambda model, key: model(batch, train=False, key=key)[0])
    np.testing.assert_array_equal(call(model, None), call(model, jax.random.key(0)))


def test_activations_computed_again_give_the_same_gradient():
    def gradient(remat):
        model, key = decoder(remat=remat, dropout=0.1, depth=1), jax.random.key(3)
        loss = jax.jit(jax.grad(lambda m: m({"tokens": TOKENS[:, :LENGTH]}, train=True, key=key)[0].var()))
        return jax.tree.leaves(loss(model))

    for once, again in zip(gradient(False), gradient(True), strict=True):
        np.testing.assert_allclose(once, again, atol=1e-6)


EXPERT_CHOICE = dict(
    layer="sparse", num_experts=4, hidden=8, k=1, router="expert_choice", dispatch="gather", group_size=0
)


@pytest.mark.slow
def test_the_loss_of_expert_choice_is_better_than_it_can_foretell():
    in_window, alone = losses_of_a_trained(EXPERT_CHOICE)
    assert in_window < 0.95 * alone
    in_window, alone = losses_of_a_trained(SPARSE)
    np.testing.assert_allclose(in_window, alone, atol=1e-4)


def test_what_sees_later_tokens_is_warned_of():
    assert "sees tokens that come later" in notes(config(moe=EXPERT_CHOICE))[0]
    assert "moe.layer soft sees" in notes(config(moe=dict(layer="soft")))[0]
    assert notes(config()) == ()
    model, tokens = decoder(moe=EXPERT_CHOICE), TOKENS[:, :LENGTH]
    changed = tokens.at[:, 7:].add(1) % VOCABULARY
    assert np.abs(read(model, tokens)[:, :7] - read(model, changed)[:, :7]).max() > 1e-3


def losses_of_a_trained(moe) -> tuple[float, float]:
    """Mean loss of two of a window's tokens, each read with all others, and with those before it alone."""
    model, rng = decoder(moe=moe, depth=1), np.random.default_rng(0)
    successors = rng.permuted(np.tile(np.arange(VOCABULARY), (VOCABULARY, 1)), axis=1)[:, :2]  # two for each token
    text = np.zeros((64, LENGTH + 1), np.int32)
    for t in range(LENGTH):
        text[:, t + 1] = successors[text[:, t], rng.integers(0, 2, 64)]
    text = jnp.asarray(text)

    def nats(model, tokens, **options):
        logits = model({"tokens": tokens[:, :-1]}, train=False, **options)[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])

    optimizer = optax.adam(1e-2)
    state = optimizer.init(model)

    @jax.jit
    def step(model, state):
        change, state = optimizer.update(jax.grad(lambda m: nats(m, text).mean())(model), state)
        return optax.apply_updates(model, change), state

    for _ in range(150):
        model, state = step(model, state)
    read, at = jax.jit(nats), (6, 10)
    alone = [read(model, text[:, : t + 2])[:, -1].mean() for t in at]
    return float(read(model, text)[:, at].mean()), float(np.mean(alone))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (dict(width=18), "model.width is 18, of which 4 heads"),
        (dict(key_heads=3), "model.key_heads is 3, which does not divide model.heads, 4; use a divisor."),
    ],
)
def test_sizes_that_do_not_fit_are_refused(wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        config(**wrong)
