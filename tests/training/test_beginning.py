"""Runs that begin from another one: what fits is taken and what does not is listed; upcycled, the function stays."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import reference
from flax import nnx
from seldom import slow_but_for
from small_run import StopAfter
from test_fit import NEVER, bits, start
from test_more_epochs import Quiet, resumed

from moejax import run
from moejax.config import configured, to_json
from moejax.errors import UserError
from moejax.models import build_model
from moejax.presets import PRESETS
from moejax.report.headline import facts
from moejax.report.record import read
from moejax.training.beginning import beginning, filled
from moejax.training.checkpoint import Checkpoints
from moejax.training.fit import Fit
from moejax.training.folder import RunFolder
from moejax.training.loop import TrainState


def begin(path, config, dataset, **values) -> Fit:
    config = config.replace(**values)
    return Fit(config, dataset, RunFolder.create(path, config), Quiet())


@pytest.fixture(scope="module")
def sparse(config, dataset, tmp_path_factory) -> Fit:
    """A run of one epoch whose parameters are averaged."""
    fit = start(tmp_path_factory.mktemp("runs") / "sparse", config.replace(train=dict(epochs=1, average=0.5)), dataset)
    fit.train(StopAfter(NEVER))
    return fit


@pytest.fixture(scope="module")
def dense(config, dataset, tmp_path_factory) -> Fit:
    """A run of one epoch with one expert."""
    config = config.replace(moe=dict(layer="dense", num_experts=1), train=dict(epochs=1))
    fit = start(tmp_path_factory.mktemp("runs") / "dense", config, dataset)
    fit.train(StopAfter(NEVER))
    return fit


@jax.jit
def _logits(model, batch):
    return model(batch, train=False)[0]


def evaluated(model, dataset):
    return np.asarray(_logits(model, dataset.test))


def logits(fit, dataset):
    return evaluated(fit._model(), dataset)


@pytest.fixture(scope="module")
def followed(sparse, config, dataset, tmp_path_factory):
    """A run that began from it: the logits it began with, and its end."""
    fit = begin(tmp_path_factory.mktemp("runs") / "next", config, dataset, init=str(sparse.folder.path))
    first = logits(fit, dataset)
    assert fit.train(StopAfter(NEVER))
    return fit, first


def test_all_of_a_run_is_taken_as_it_was_evaluated(sparse, followed, dataset):
    fit, first = followed
    assert f"beginning from {sparse.folder.path} as it was at step 6: 16 arrays are taken" in fit.progress.said
    np.testing.assert_array_equal(first, logits(sparse, dataset))
    record = json.loads((fit.folder.path / "init.json").read_text())
    assert (record["run"], record["step"], len(record["sha256"])) == (str(sparse.folder.path), 6, 64)
    assert fit.test()["init"] == record
    assert ("began from", f"step 6 of {sparse.folder.path}") in facts(read(fit.folder.path))


def test_what_does_not_fit_is_listed_and_begins_anew(sparse, config, dataset, tmp_path):
    more = dataclasses.replace(dataset, num_classes=6)
    fit = begin(
        tmp_path / "next",
        config,
        more,
        init=str(sparse.folder.path),
        moe=dict(hidden=4, k=2, num_experts=2),
        train=dict(frozen="stem"),
    )
    assert fit.progress.said[-6:] == [
        f"beginning from {sparse.folder.path} as it was at step 6: 11 arrays are taken, but",
        "  begins anew: blocks[0].moe.experts.down.kernel, float32[2, 4, 8]; the run has float32[2, 8, 8]",
        "  begins anew: blocks[0].moe.experts.up.bias, float32[2, 4]; the run has float32[2, 8]",
        "  begins anew: blocks[0].moe.experts.up.kernel, float32[2, 8, 4]; the run has float32[2, 8, 8]",
        "  begins anew: head.bias, float32[6]; the run has float32[4]",
        "  begins anew: head.kernel, float32[200, 6]; the run has float32[200, 4]",
    ]
    stem = np.asarray(fit.state.model.stem.first.kernel[...])
    np.testing.assert_array_equal(stem, averaged_stem(sparse))
    assert not fit.train(StopAfter(0))
    np.testing.assert_array_equal(fit.state.model.stem.first.kernel[...], stem)  # frozen


def averaged_stem(fit):
    return np.asarray(fit._model().stem.first.kernel[...])


def test_cut_before_and_after_it_saved_it_has_the_same_bits(sparse, followed, config, dataset, tmp_path):
    source = shutil.copytree(sparse.folder.path, tmp_path / "source")
    begin(tmp_path / "two", config, dataset, init=str(source))  # killed before it saved
    two = resumed(tmp_path / "two", dataset)
    assert any(line.startswith(f"beginning from {source}") for line in two.progress.said)
    two.train(StopAfter(0))
    shutil.rmtree(source)  # needed no more
    two = resumed(tmp_path / "two", dataset)
    two.train(StopAfter(NEVER))
    assert bits(two) == bits(followed[0])


SELDOM = [pytest.param(content, marks=pytest.mark.slow) for content in ("", "[1]")]


@pytest.mark.parametrize("content", [*SELDOM, "{", '{"run": "x", "step": 3}'])
def test_a_damaged_record_of_it_is_one_sentence_before_anything_is_trained(followed, dataset, tmp_path, content):
    run = shutil.copytree(followed[0].folder.path, tmp_path / "run")
    (run / "sha256.json").unlink(missing_ok=True)
    (run / "init.json").write_text(content)
    with pytest.raises(UserError, match=r"init\.json is not what was written; delete it, and the run goes on without"):
        resumed(run, dataset)
    (run / "init.json").unlink()
    resumed(run, dataset)


@pytest.mark.slow
def test_a_source_that_is_another_one_by_now_is_one_sentence(sparse, dense, config, dataset, tmp_path):
    source = shutil.copytree(sparse.folder.path, tmp_path / "source")
    begin(tmp_path / "next", config, dataset, init=str(source))
    shutil.rmtree(source)
    shutil.copytree(dense.folder.path, source)
    with pytest.raises(UserError, match=r"began from step 6 of .*source, which is not what it was; start another run"):
        resumed(tmp_path / "next", dataset)
    array = next(p for p in (source / "checkpoints" / "6").rglob("d/*") if p.is_file())
    array.write_bytes(array.read_bytes()[:-1])
    with pytest.raises(UserError, match="is not what was written"):
        resumed(tmp_path / "next", dataset)


UPCYCLED = {
    "grouped": dict(layer="sparse", num_experts=4, k=2, dispatch="grouped"),
    "einsum": dict(layer="sparse", num_experts=4, k=2, capacity_factor=None, eval_capacity_factor=None),
    "dense": dict(layer="dense", num_experts=3),
}


@pytest.mark.parametrize("kind", slow_but_for(UPCYCLED, "grouped"))
def test_upcycled_the_network_computes_what_the_dense_one_did(kind, dense, config, dataset):
    moe = UPCYCLED[kind]
    config = config.replace(moe=moe, init=str(dense.folder.path), upcycle=True)
    model = jax.jit(lambda: build_model(config, 4, nnx.Rngs(1)))()
    begins = beginning(config, model)
    assert begins.copied == 4
    filled_model = filled(model, begins.arrays())
    assert filled_model.blocks[0].moe.experts.up.kernel.shape == (moe["num_experts"], 8, 8)
    np.testing.assert_allclose(
        evaluated(filled_model, dataset), evaluated(dense.state.model, dataset), rtol=1e-6, atol=1e-6
    )


def test_a_feed_forward_layer_becomes_the_experts_in_its_place(tmp_path):
    small = {"model.width": 8, "model.depth": 2, "model.heads": 2, "model.room": 12, "moe.hidden": 12}
    config, problems = configured(small | {"data.vocabulary": 30}, PRESETS["mrpc_minilm"].config)
    moe = dict(layer="sparse", num_experts=3, k=2, dispatch="grouped", router="softmax_top_k")
    config = config.replace(model=dict(moe_every=2), moe=moe, train=dict(dtype="float32"))
    half = reference.randomly_filled(lambda: build_model(config, 2, nnx.Rngs(0)))
    folder = RunFolder.create(tmp_path / "half", config)
    Checkpoints(folder.checkpoints).save(TrainState(np.int32(1), half, {}), None)

    config = config.replace(model=dict(moe_every=1), init=str(folder.path), upcycle=True)
    model = reference.randomly_filled(lambda: build_model(config, 2, nnx.Rngs(0)))
    begins = beginning(config, model)
    assert (begins.copied, problems) == (4, [])
    assert begins.listed == ("  begins anew: encoder.blocks[0].moe.router.kernel, float32[8, 3]; the run has none",)
    pieces = np.random.default_rng(0).integers(3, 30, (5, 12)).astype(np.int32)
    batch = {"pieces": pieces, "second": np.arange(12) > np.full((5, 1), 6)}
    both = (np.asarray(_logits(m, batch)) for m in (filled(model, begins.arrays()), half))
    np.testing.assert_allclose(next(both), next(both), rtol=1e-6, atol=1e-6)


def test_an_upcycled_run_begins_so_and_its_experts_become_different(dense, config, dataset, tmp_path):
    moe = dict(num_experts=4, k=2)
    fit = begin(tmp_path / "up", config, dataset, init=str(dense.folder.path), upcycle=True, moe=moe)
    said = fit.progress.said
    assert any(line.endswith("15 arrays are taken, 4 of them by each expert, but") for line in said)
    assert "  note: with moe.capacity_factor 1.25 and moe.eval_capacity_factor 2 tokens may be dropped" in said[-2]
    assert said[-1] == "  begins anew: blocks[0].moe.router.kernel, float32[8, 4]; the run has float32[8, 1]"
    kernel = np.asarray(fit.state.model.blocks[0].moe.experts.up.kernel[...])
    np.testing.assert_array_equal(kernel, np.broadcast_to(kernel[:1], kernel.shape))
    fit.train(StopAfter(0))
    assert (np.ptp(fit.state.model.blocks[0].moe.experts.up.kernel[...], axis=0) > 0).any()


@pytest.mark.parametrize(
    ("source", "values", "sentence"),
    [
        ("sparse", dict(moe=dict(num_experts=4, k=2)), r"up.*float32\[2, 8\] in moe.layer sparse; give it a run with"),
        ("dense", dict(moe=dict(k=1)), "upcycle is true, but moe.k is 1 of the router TopKSoftmax|SoftmaxTopK"),
        ("dense", dict(moe=dict(layer="soft")), "moe.layer is soft, whose experts see mixtures of tokens"),
        ("dense", dict(moe=dict(k=2, shared=4)), "moe.shared is 4, an expert that adds to what the dense network"),
        ("dense", dict(moe=dict(k=2, zero_experts=1)), "1 experts compute nothing"),
        ("dense", dict(moe=dict(k=2, hidden=4)), r"float32\[2, 4, 8\], the run has float32\[1, 8, 8\] in moe.layer"),
        ("dense", dict(moe=dict(layer="dense", num_experts=1)), "has as many experts as this one"),
    ],
    ids=str,
)
def test_what_cannot_be_upcycled_is_one_sentence(source, values, sentence, sparse, dense, config, dataset, tmp_path):
    path = {"sparse": sparse, "dense": dense}[source].folder.path
    with pytest.raises(UserError, match=sentence) as raised:
        begin(tmp_path / "up", config, dataset, init=str(path), upcycle=True, **values)
    assert len(raised.value.sentences) == 1


def test_by_the_words_of_the_command_line(dense, dataset, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(run, "_load", lambda _: dataset)
    source, out = str(dense.folder.path), str(tmp_path / "run")
    assert run.main(["--init", source, "--train.epochs", "9", "--print-config"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["init"], said["upcycle"], said["train"]["epochs"], said["moe"]["num_experts"]) == (source, False, 9, 1)
    words = ["--upcycle", "--moe.layer", "sparse", "--moe.num_experts", "2", "--moe.k", "2", "--print-config"]
    assert run.main(["--init", source, *words]) == 0
    assert json.loads(capsys.readouterr().out)["upcycle"] is True
    for command, sentence in (
        (["--init", str(tmp_path)], "is not a run folder: it has no readable config.json"),
        (["--init", ""], "init is '', which can be no path"),
        (
            ["--config", "mnist_tiny", "--upcycle"],
            "upcycle is true, but init is none; name the dense run by --init RUN",
        ),
        (["--init", source, "--model.name", "flat"], "no array of its network fits"),
        (["--config", source, "--init", str(tmp_path)], "is not a run folder"),
    ):
        assert run.main([*command, "--out", out]) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    (tmp_path / "config.json").write_text(to_json(dense.config))
    assert run.main(["--init", str(tmp_path), "--out", out]) == 2
    assert "has no checkpoint yet" in capsys.readouterr().err
