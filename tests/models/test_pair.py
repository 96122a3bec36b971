"""The classifier of pairs: what two sentences share by hand, symmetry, padding, and experts against slow loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import randomly_filled
from seldom import slow_but_for

from moejax.config import Config, make_config
from moejax.errors import UserError
from moejax.models import build_model
from moejax.models.pair import attend, counts, matches, shared_ngrams
from moejax.models.pair_experts import Convolution, Recurrence, flatten, pool, unflatten, windows
from moejax.presets import PRESETS

LAYERS = {
    "dense": {},
    "sparse": {"capacity_factor": None, "eval_capacity_factor": None, "group_size": 8},
    "soft": {"slots": 1},
}
KINDS = [("mlp", "dense"), ("glu", "soft"), ("cnn", "sparse"), ("cnn", "soft"), ("rnn", "sparse"), ("rnn", "dense")]


def tiny(expert="mlp", layer="dense", **model) -> Config:
    return make_config(
        data=dict(name="mrpc", vocabulary=20, length=6),
        model=dict(name="pair", width=8, kernel=3, embedding=4, **model),
        moe=dict(layer=layer, num_experts=3, expert=expert, hidden=5, **LAYERS[layer]),
    )


def make(config: Config) -> nnx.Module:
    return randomly_filled(lambda: build_model(config, 2, nnx.Rngs(0)), scale=0.4)


def pairs(count: int, length: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    batch = {side: rng.integers(1, 20, (count, length)).astype(np.int32) for side in ("first", "second")}
    for row, (a, b) in enumerate(rng.integers(1, length + 1, (count, 2))):
        batch["first"][row, a:], batch["second"][row, b:] = 0, 0
    return batch


@jax.jit(static_argnames="train")
def classify(model, batch, train=False, key=None):
    return model(batch, train=train, key=key)


def test_a_number_that_is_no_word_leaves_its_pair_without_an_answer():
    batch = pairs(2)
    batch["first"][0, 0] = 20
    logits, _ = classify(make(tiny()), batch)
    np.testing.assert_array_equal(np.isfinite(logits).all(-1), [False, True])


# What two sentences share


def test_shared_words_and_ngrams_by_hand():
    first, second = jnp.array([[7, 3, 9, 4, 0]]), jnp.array([[3, 9, 4, 7, 0]])
    same = matches(first, second)
    np.testing.assert_array_equal(np.argwhere(same[0]), [[0, 3], [1, 0], [2, 1], [3, 2]])  # no padding
    # 7: only itself. 3 9 4 stand together in both: 3 begins a shared pair, 9 is within one, 4 ends one.
    want = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(shared_ngrams(same)[0], want)


def test_counts_by_hand():
    ids = jnp.array([[[7, 3, 0], [3, 0, 0]]])
    grams = jnp.zeros((1, 2, 3, 4)).at[0, :, :, 0].set(jnp.array([[0, 1, 0], [1, 0, 0]]))
    # the first sentence: one of two words shared; log(1 + 3) of log(1 + 7) + log(1 + 3), which are 2 and 3 times log 2
    np.testing.assert_allclose(counts(ids, grams)[0, 0], [0.5, 0, 0, 0, 0.1, 0, 0, 0, 0.2, 0.4], rtol=1e-6)
    np.testing.assert_allclose(counts(ids, grams)[0, 1], [1, 0, 0, 0, 0.1, 0, 0, 0, 0.1, 1], rtol=1e-6)


def test_attention_is_a_mean_of_what_is_there():
    fit = jnp.log(jnp.array([[[1.0, 3.0, 100.0]]]))
    values = jnp.array([[[4.0], [8.0], [1000.0]]])
    np.testing.assert_allclose(attend(fit, values, jnp.array([[1.0, 1.0, 0.0]])), [[[7.0]]], rtol=1e-6)


# Experts that read words


def test_a_sentence_is_a_token_and_back():
    rng = np.random.default_rng(0)
    summary, words = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 3), (2, 4, 3)))
    present = jnp.array([[1.0, 1, 1, 0], [1, 0, 0, 0]])
    token = flatten(summary, words, present)
    assert token.shape == (2, 3 + 4 * 4)
    again, there = unflatten(token, 4, 3)
    np.testing.assert_array_equal(again, words * present[..., None])
    np.testing.assert_array_equal(there, present)
    np.testing.assert_array_equal(token[:, :3], summary)


def test_pooling_leaves_padding_out():
    x = jnp.array([[[-1.0], [-3.0], [9.0]], [[1.0], [2.0], [3.0]]])
    np.testing.assert_array_equal(pool(x, jnp.array([[1.0, 1, 0], [0, 0, 0]])), [[-2, -1], [0, 0]])


@pytest.mark.parametrize(
    ("size", "want"), [(1, [[1], [2], [3]]), (2, [[1, 2], [2, 3], [3, 0]]), (3, [[0, 1, 2], [1, 2, 3], [2, 3, 0]])]
)
def test_windows_by_hand(size, want):
    np.testing.assert_array_equal(windows(jnp.array([[1.0], [2.0], [3.0]]), size), want)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def of(linear):
    bias = 0 if linear.bias is None else np.asarray(linear.bias[...], float)
    return np.asarray(linear.kernel[...], float), bias


def sentence(s=5, d=3, words=4):
    x = np.random.default_rng(1).normal(size=(s, d))
    x[words:] = 0
    present = (np.arange(s) < words).astype(float)
    token = flatten(jnp.zeros(d), jnp.asarray(x, jnp.float32), jnp.asarray(present, jnp.float32))
    return x, words, token


def pooled(states):
    return np.concatenate([np.mean(states, axis=0), np.max(states, axis=0)])


def test_a_convolution_against_a_loop_over_words():
    expert = randomly_filled(lambda: Convolution(5, 3, 4, kernel=3, rngs=nnx.Rngs(0)))
    x, words, token = sentence()
    (filters, bias), (out, out_bias) = of(expert.filters), of(expert.out)
    padded = np.concatenate([np.zeros((1, 3)), x, np.zeros((1, 3))])
    answers = [gelu(padded[i : i + 3].reshape(-1) @ filters + bias) for i in range(words)]
    np.testing.assert_allclose(expert(token), pooled(answers) @ out + out_bias, rtol=1e-4, atol=1e-5)


def test_a_recurrence_against_a_loop_over_words():
    expert = randomly_filled(lambda: Recurrence(5, 3, 4, rngs=nnx.Rngs(0)))
    x, words, token = sentence()
    (into, bias), (again, _), (out, out_bias) = of(expert.into), of(expert.again), of(expert.out)
    state, states = np.zeros(4), []
    for i in range(words):
        a, b = np.split(x[i] @ into + bias, 3), np.split(state @ again, 3)
        reset, keep = sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1])
        state = (1 - keep) * np.tanh(a[2] + reset * b[2]) + keep * state
        states.append(state)
    np.testing.assert_allclose(expert(token), pooled(states) @ out + out_bias, rtol=1e-4, atol=1e-5)


# The whole


@pytest.mark.parametrize(("expert", "layer"), slow_but_for(KINDS, ("cnn", "soft"), ("rnn", "sparse")))
def test_a_pair_is_classified_alike_in_either_order_and_any_batch(expert, layer):
    model, batch = make(tiny(expert, layer)), pairs(4)
    logits, (routing,) = classify(model, batch)
    assert (logits.shape, logits.dtype) == ((4, 2), jnp.float32)
    assert np.isfinite(logits).all()
    assert routing.gates.shape[-1] == 3
    swapped, _ = classify(model, {"first": batch["second"], "second": batch["first"]})
    np.testing.assert_allclose(swapped, logits, rtol=1e-4, atol=1e-5)
    backwards, _ = classify(model, {side: ids[::-1] for side, ids in batch.items()})
    np.testing.assert_allclose(backwards[::-1], logits, rtol=1e-4, atol=1e-5)
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


@pytest.mark.parametrize("expert", ["mlp", "cnn", "rnn"])
def test_every_parameter_gets_a_finite_gradient(expert):
    model, batch = make(tiny(expert)), pairs(3)
    batch["first"][0] = 0  # a sentence of no words
    batch["second"][1, 0] = batch["first"][1, 0]

    def loss(model):
        return (classify(model, batch, train=True)[0] ** 2).sum()

    for path, leaf in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(model)):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


def test_dropout_is_of_training_alone_and_keeps_same_words_the_same():
    model, batch = make(tiny(dropout=0.5)), pairs(3)
    batch["second"] = batch["first"]
    plain, _ = classify(model, batch, key=jax.random.key(1))
    np.testing.assert_array_equal(classify(model, batch)[0], plain)
    dropped = [classify(model, batch, train=True, key=jax.random.key(seed))[0] for seed in (1, 2)]
    assert np.abs(dropped[0] - dropped[1]).max() > 1e-3
    keep = np.asarray(model.dropouts(400, True, jax.random.key(0))[1])
    assert set(np.unique(keep)) == {0.0, 2.0}
    assert abs(keep.mean() - 1) < 0.05


@pytest.mark.parametrize("layer", ["dense", "sparse", "soft"])
def test_the_router_may_look_at_something_else_than_the_experts_read(layer):
    moe = make(tiny("rnn", layer)).moe
    sentences = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 8 + 6 * 9)), jnp.float32)
    summary, other = sentences[..., :8], sentences.at[..., 8:].multiply(2)
    read = jax.jit(lambda moe, x: moe(x, router_input=summary))
    (y, routing), (y2, routing2) = (read(moe, x) for x in (sentences, other))
    np.testing.assert_array_equal(routing.gates, routing2.gates)
    assert np.abs(y - y2).max() > 1e-3


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"data": dict(name="mnist")}, "model.name is pair, which cannot read mnist; use mrpc or pairs."),
        (
            {"model": dict(name="image")},
            "model.name is image, which cannot read mrpc; use mnist or fashion_mnist or domains or images or",
        ),
        ({"model": dict(name="image"), "moe": dict(expert="rnn")}, "moe.expert is rnn; it must be one of mlp, glu."),
        ({"moe": dict(layer="sparse", dispatch="grouped")}, "moe.dispatch is grouped, which the experts of"),
        ({"moe": dict(shared=8)}, "moe.shared has no effect with"),
        ({"model": dict(dropout=1.0)}, "model.dropout is 1.0; it must be a number of at least 0 and below 1."),
    ],
)
def test_what_makes_no_sense_is_one_sentence(values, sentence):
    with pytest.raises(UserError) as error:
        PRESETS["mrpc_rnn"].config.replace(**values)
    assert [problem for problem in error.value.sentences if problem.startswith(sentence)]
