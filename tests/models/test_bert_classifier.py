"""The classifier of pairs: the order of the sentences does not matter, padding does not, and a run of it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import randomly_filled
from small_run import made_up_weights

from moejax import models
from moejax.config import make_config
from moejax.data.dataset import Dataset
from moejax.data.mrpc_pieces import LENGTH
from moejax.interrupt import StopSignal
from moejax.models import build_model
from moejax.models.bert import weights as bert_weights
from moejax.models.bert.sentence_order import swap_sentences
from moejax.routing import TopKRouting
from moejax.training.evaluate import evaluate
from moejax.training.fit import Fit
from moejax.training.folder import RunFolder
from moejax.training.progress import Progress

CONFIG = make_config(
    name="pairs",
    data=dict(name="mrpc_pieces", vocabulary=30),
    model=dict(name="encoder", width=8, depth=1, heads=2, moe_every=1, room=12, dropout=0.1),
    moe=dict(layer="sparse", num_experts=3, k=2, hidden=12, dispatch="grouped"),
    train=dict(epochs=2, batch_size=16, learning_rate=1e-2, chunk=4),
)


def pairs(count, seed, longest=5):
    """Pairs of the same sentence (label 1) or of two."""
    rng = np.random.default_rng(seed)
    pieces, second = np.zeros((count, LENGTH), np.int32), np.zeros((count, LENGTH), bool)
    label = rng.integers(0, 2, count).astype(np.int32)
    for row, same in enumerate(label):
        a, b = (rng.integers(3, 30, rng.integers(2, longest)) for _ in range(2))
        b = a if same else b
        words = [1, *a, 2, *b, 2]
        pieces[row, : len(words)] = words
        second[row, 2 + len(a) : len(words)] = True
    return {"pieces": pieces, "second": second, "label": label}


def test_sentences_swap_by_hand():
    pieces = jnp.array([[1, 5, 6, 7, 2, 8, 2, 0, 0], [1, 5, 2, 8, 9, 4, 3, 2, 0]])
    second = jnp.array([[0, 0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1, 1, 0]], bool)
    swapped, marks = swap_sentences(pieces, second)
    np.testing.assert_array_equal(swapped, [[1, 8, 2, 5, 6, 7, 2, 0, 0], [1, 8, 9, 4, 3, 2, 5, 2, 0]])
    np.testing.assert_array_equal(marks, np.array([[0, 0, 0, 1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1, 0]], bool))


def test_swapping_twice_changes_nothing():
    some = pairs(20, 0)
    once = swap_sentences(jnp.asarray(some["pieces"]), jnp.asarray(some["second"]))
    for twice, first in zip(swap_sentences(*once), (some["pieces"], some["second"]), strict=True):
        np.testing.assert_array_equal(twice, first)


def test_a_number_that_is_no_piece_leaves_its_pair_without_an_answer():
    batch = {name: jnp.asarray(array) for name, array in pairs(3, 1).items()}
    batch["pieces"] = batch["pieces"].at[0, 1].set(30).at[1, 1].set(-1)
    model = randomly_filled(lambda: build_model(CONFIG, 2, nnx.Rngs(0)))
    logits, _ = jax.jit(lambda model, batch: model(batch, train=False))(model, batch)
    np.testing.assert_array_equal(np.isfinite(logits).all(-1), [False, False, True])


def test_the_order_of_the_sentences_does_not_matter():
    model = randomly_filled(lambda: build_model(CONFIG, 2, nnx.Rngs(0)))
    batch = {name: jnp.asarray(array) for name, array in pairs(3, 1).items()}
    swapped, marks = swap_sentences(batch["pieces"], batch["second"])
    classify = jax.jit(lambda model, batch: model(batch, train=False))
    (logits, [routing]), (other, _) = (
        classify(model, b) for b in (batch, batch | {"pieces": swapped, "second": marks})
    )
    assert np.abs(logits).max() > 0.01
    np.testing.assert_allclose(logits, other, rtol=1e-4, atol=1e-5)
    assert isinstance(routing, TopKRouting)
    assert int(routing.mask.sum()) == 2 * int((batch["pieces"] > 0).sum())


def test_evaluation_knows_each_examples_own_tokens():
    model = randomly_filled(lambda: build_model(CONFIG, 2, nnx.Rngs(0)))
    some = pairs(5, 2)
    whole, alone = (evaluate(model, some, batch_size) for batch_size in (5, 1))
    np.testing.assert_allclose(whole.gates, alone.gates, rtol=1e-4)
    np.testing.assert_allclose(whole.gates.sum(-1), 1, rtol=1e-4)


@pytest.fixture
def dataset():
    splits = {"train": pairs(64, 4), "validation": pairs(16, 5), "test": pairs(16, 6)}
    return Dataset("mrpc_pieces", "dir", "made on the spot", {}, **splits, num_classes=2)


@pytest.mark.slow
def test_a_run_begins_with_the_weights(dataset, monkeypatch, tmp_path):
    find = lambda config: bert_weights.select(made_up_weights(config), config)  # noqa: E731
    monkeypatch.setitem(models.PRETRAINED, "encoder", (find, bert_weights.fill))
    weights = made_up_weights(CONFIG)

    fit = Fit(CONFIG, dataset, RunFolder.create(tmp_path / "run", CONFIG), Progress())
    word = weights["embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(fit.state.model.encoder.embeddings.piece[...], word)
    up = fit.state.model.encoder.blocks[0].moe.experts.up.kernel[...]
    np.testing.assert_array_equal(up, np.tile(weights["encoder.layer.0.intermediate.dense.weight"].T, (3, 1, 1)))
    assert fit.train(StopSignal())
    summary = fit.test()
    assert summary["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(fit.state.model))
    assert 0 <= summary["test_f1"] <= 1
