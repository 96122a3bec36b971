"""Whole runs on a small data set: what they leave, that they repeat bit for bit, stop and resume."""

import csv
import dataclasses
import json

import jax
import numpy as np
import pytest
from small_run import StopAfter

import moejax
from moejax import predictions
from moejax.data.dataset import digest
from moejax.errors import UserError
from moejax.runs.verify import verify
from moejax.training.checkpoint import Checkpoints
from moejax.training.fit import Fit
from moejax.training.folder import RunFolder
from moejax.training.progress import Progress

NEVER = 10**9
COMPILED = "/jax/core/compile/backend_compile_duration"


def start(path, config, dataset) -> Fit:
    return Fit(config, dataset, RunFolder.create(path, config), Progress())


def bits(fit: Fit) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(fit.state)]


def lines(path, *without: str) -> list[dict]:
    records = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in r.items() if k not in ("seconds", "examples_per_second", *without)} for r in records]


def routing_of(folder: RunFolder) -> dict[str, np.ndarray]:
    with np.load(folder.path / "routing.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def finished(config, dataset, tmp_path_factory) -> Fit:
    fit = start(tmp_path_factory.mktemp("runs") / "whole", config, dataset)
    assert fit.train(StopAfter(NEVER))
    fit.test()
    return fit


def test_validation_test_and_counting_of_flops_share_one_program(config, dataset, tmp_path):
    config = config.replace(
        model=dict(width=5),  # no other test's program
        moe=dict(layer="soft", num_experts=2, hidden=8, slots=2),
        train=dict(evaluation_batch=10, tested="best"),
    )
    names = []
    listener = lambda event, seconds, **about: names.append(about.get("fun_name")) if event == COMPILED else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        fit = start(tmp_path / "run", config, dataset)
        assert fit.train(StopAfter(NEVER))
        fit.test()
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert fit.folder.read_summary()["flops_per_example"] > 0
    assert names.count("jit(evaluate_batch)") == 1


def test_a_run_leaves_its_answer_to_each_test_example(finished, dataset):
    answers = predictions.unpack((finished.folder.path / predictions.NAME).read_bytes())
    np.testing.assert_array_equal(answers.label, dataset.test["label"])
    assert answers.right.mean() == pytest.approx(finished.folder.read_summary()["test_accuracy"])
    assert answers.test_sha256 == digest(dataset.test)
    model = moejax.runs.load(finished.folder.path)
    np.testing.assert_array_equal(model.predict(dataset.test["image"]).classes, answers.prediction)
    assert {found.state for found in verify(finished.folder.path)} == {"ok"}


def test_a_run_learns_and_leaves_its_numbers(finished, dataset):
    path = finished.folder.path
    records = lines(path)
    assert [r["step"] for r in records if r["kind"] == "train"] == [3, 6, 9, 12]
    assert [r["step"] for r in records if r["kind"] == "validation"] == [6, 12]
    assert [r["kind"] for r in records].count("test") == 1
    summary = finished.folder.read_summary()
    assert summary["test_accuracy"] > 0.5  # four labels: chance is a quarter
    assert summary["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(finished.state.model))
    assert summary["flops_per_example"] > 0
    assert summary["max_violation"] == pytest.approx(1 - summary["least_load"])  # of two experts
    assert len(summary["label_information"]) == 1
    assert {name: len(of_layers) for name, of_layers in summary["experts_by"].items()} == {
        "position": 1,
        "label": 1,
        "content": 1,
    }
    routing = routing_of(finished.folder)
    np.testing.assert_array_equal(routing["step"], [3, 6, 9, 12])
    assert routing["load"].shape == (4, 1, 2)
    np.testing.assert_allclose(routing["load"].sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(routing["confusion"].sum(1), np.bincount(dataset.test["label"]))
    assert routing["sample_gate"].shape == (4, 1, 25, 2)
    np.testing.assert_array_equal(routing["film_step"], [3, 6, 9, 12])
    gate = routing["sample_gate"]
    np.testing.assert_array_equal(routing["film"][-1], np.where(gate.any(-1), gate.argmax(-1), -1))
    assert routing["position_expert"].shape == (1, 25, 2)
    assert routing["content_expert"].shape == (1, 32, 2)
    assert routing["experts_by_position"].shape == (1,)
    assert routing["top_image"].shape == (1, 2, 8, 28, 28)


def test_the_best_epoch_is_tested_if_asked_for(config, dataset, tmp_path):
    train = dict(tested="best", checkpoints="all")
    fit = start(tmp_path / "best", config.replace(train=train), dataset)
    fit.train(StopAfter(NEVER))
    log = fit.folder.path / "metrics.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    for record in records:
        if record["kind"] == "validation":
            record["accuracy"] = {6: 0.9, 12: 0.8}[record["step"]]
    log.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    of_first_epoch = fit.checkpoints.restore(6, fit.state)
    assert fit.test()["tested_step"] == 6
    for leaf, wanted in zip(jax.tree.leaves(fit.state), jax.tree.leaves(of_first_epoch), strict=True):
        np.testing.assert_array_equal(leaf, wanted)


def test_two_runs_of_one_seed_are_bit_identical(finished, config, dataset, tmp_path):
    again = start(tmp_path / "again", config, dataset)
    again.train(StopAfter(NEVER))
    assert bits(again) == bits(finished)


@pytest.mark.parametrize("looks", [0, 1])  # within the first epoch; after a whole one
def test_a_stopped_run_resumes_to_the_same_bits_and_the_same_lines(finished, config, dataset, tmp_path, looks):
    path = tmp_path / "stopped"
    stopped = start(path, config, dataset)
    assert not stopped.train(StopAfter(looks))
    assert 0 < int(stopped.state.step) < 12
    with open(path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "step": 99999}\n{"kind": "tr')  # logged, then killed

    folder, config_again = RunFolder.open(path)
    assert config_again == config
    resumed = Fit(config_again, dataset, folder, Progress())
    resumed.resume()
    assert int(resumed.state.step) == int(stopped.state.step)
    assert resumed.train(StopAfter(NEVER))
    resumed.test()
    assert bits(resumed) == bits(finished)
    assert lines(path) == lines(finished.folder.path)
    np.testing.assert_array_equal(routing_of(folder)["load"], routing_of(finished.folder)["load"])


def test_a_run_that_never_saved_resumes_from_its_start(finished, config, dataset, tmp_path):
    start(tmp_path / "none", config, dataset)
    folder, _ = RunFolder.open(tmp_path / "none")
    resumed = Fit(config, dataset, folder, Progress())
    resumed.resume()
    resumed.train(StopAfter(NEVER))
    assert bits(resumed) == bits(finished)


def test_what_a_run_had_no_time_to_delete_goes_as_it_goes_on(config, dataset, tmp_path, monkeypatch):
    """It was killed between its last checkpoint and the end of the one before, which no later one deletes."""
    killed = start(tmp_path / "killed", config, dataset)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "drop_all_but", lambda self, step: None)
        killed.train(StopAfter(NEVER))
    assert killed.checkpoints.steps() == [6, 12]
    resumed = Fit(config, dataset, RunFolder.open(tmp_path / "killed")[0], Progress())
    resumed.resume()
    assert resumed.checkpoints.steps() == [12]


def test_an_early_stop_is_said_where_it_happens_and_in_what_is_left(config, dataset, tmp_path):
    said = []
    config = config.replace(train=dict(stop_below=1e6, warmup=0.0, chunk=1))  # the first loss that has risen
    fit = start(tmp_path / "stops", config, dataset)
    fit.progress.message = said.append
    fit.train(StopAfter(NEVER))
    summary = fit.test()
    learnt = summary["stopped_after"]
    assert 1 <= learnt < 12
    sentence = f"After {learnt} steps train.stop_rise or train.stop_below ended the learning for good."
    assert said.count(f"note: {sentence}") == 1
    assert sentence in summary["notes"]
    rates = [record["learning_rate"] for record in fit.folder.read_log() if record["kind"] == "train"]
    assert [rate > 0 for rate in rates] == [step < learnt for step in range(12)]
    validated = [record["accuracy"] for record in fit.folder.read_log() if record["kind"] == "validation"]
    assert summary["validation_accuracy"] == validated[-1]


def test_a_batch_larger_than_the_data_is_one_sentence(config, dataset, tmp_path):
    config = config.replace(train=dict(batch_size=91))
    with pytest.raises(UserError, match=r"train\.batch_size is 91, but there are only 90 training examples"):
        start(tmp_path / "big", config, dataset)


def test_routers_change_what_is_theirs_after_each_step(config, dataset, tmp_path):
    moe = dict(router="sigmoid", bias_update_rate=0.125, jitter=0.01)
    fit = start(tmp_path / "sigmoid", config.replace(moe=moe), dataset)
    fit.train(StopAfter(0))
    bias = np.asarray(fit.state.model.blocks[0].moe.router.bias[...])
    # 3 steps of ± 0.125; 15 · 25 choices never fall on two experts evenly, which move against each other
    assert abs(bias[0]) in (0.125, 0.375)
    assert bias.sum() == 0


@pytest.mark.slow
def test_an_annealed_temperature_arrives(config, dataset, tmp_path):
    moe = dict(layer="dense", temperature=2.0, final_temperature=0.25)
    fit = start(tmp_path / "dense", config.replace(moe=moe), dataset)
    fit.train(StopAfter(1))
    router = fit.state.model.blocks[0].moe.router
    first = float(np.exp(router.log_temperature[...]))
    assert 0.25 < first < 2.0
    fit.train(StopAfter(NEVER))
    np.testing.assert_allclose(np.exp(fit.state.model.blocks[0].moe.router.log_temperature[...]), 0.25, rtol=1e-5)


def test_a_loss_that_is_not_finite_is_one_sentence(config, dataset, tmp_path):
    config = config.replace(train={"learning_rate": 1e30, "clip_norm": 1e30, "warmup": 0.0})
    with pytest.raises(UserError, match=r"not a finite number from step \d+ on; lower train\.learning_rate"):
        start(tmp_path / "wild", config, dataset).train(StopAfter(NEVER))


def test_a_guided_run_keeps_every_epoch_and_writes_its_tables(config, dataset, tmp_path):
    moe = dict(layer="dense", num_experts=4, hidden=8, assignment_weight=1.0, l2_weight=1e-2)
    model = dict(name="flat", guided=True, second_hidden=8, normalize=True, dropout=0.2)
    train = dict(checkpoints="all", activations=True, task_weight=0.5, shift=0.0)
    fit = start(tmp_path / "guided", config.replace(model=model, moe=moe, train=train), dataset)
    assert fit.train(StopAfter(NEVER))
    assert fit.test()["test_accuracy"] > 0.5
    path = fit.folder.path
    assert {p.name for p in (path / "checkpoints").iterdir()} == {"6", "12"}
    for kind, epochs in (("train", 2), ("validation", 2), ("test", 1)):
        assert len((path / f"{kind}_metrics.csv").read_text().splitlines()) == 1 + epochs
    for epoch in (1, 2):
        table = list(csv.DictReader((path / "activations" / f"epoch_{epoch}.csv").read_text().splitlines()))
        assert len(table) == 30 * 4  # validation examples, experts
        assert {row["Epoch"] for row in table} == {str(epoch)}
        assert all((row["Label"] == row["Assigned_Labels"]) == (row["Is_Assigned"] == "1") for row in table)
    # label_expert [layer, label, expert]: each label's examples go to its own expert
    table = routing_of(fit.folder)["label_expert"][0]
    assert (table.argmax(1) == np.arange(4)).mean() > 0.5


@pytest.mark.slow
def test_without_validation_all_examples_are_trained_on(config, dataset, tmp_path):
    everything = {k: np.concatenate([dataset.train[k], dataset.validation[k]]) for k in dataset.train}
    nothing = {k: v[:0] for k, v in dataset.validation.items()}
    config = config.replace(train=dict(epochs=1, batch_size=40))
    fit = start(tmp_path / "all", config, dataclasses.replace(dataset, train=everything, validation=nothing))
    assert fit.train(StopAfter(NEVER))
    assert fit.test()["train_examples"] == 120
    assert fit.checkpoints.latest() == 3


def test_evaluations_come_every_so_many_epochs_and_at_the_end(config, dataset, tmp_path):
    config = config.replace(train=dict(epochs=5, evaluate_every=2))
    fit = start(tmp_path / "seldom", config, dataset)
    assert fit.train(StopAfter(NEVER))
    assert [r["epoch"] for r in lines(tmp_path / "seldom") if r["kind"] == "validation"] == [2, 4, 5]
