"""Runs side by side: what is compared, what is left out, and what is said of it."""

import json

import numpy as np
import pytest
from comparison.side_by_side import change, write
from report.synthetic import write_run

from moejax import manifest, predictions
from moejax.comparison import compare, figures, tables
from moejax.comparison.comparison import differences
from moejax.errors import UserError
from moejax.predictions import Predictions


def test_scores_and_pairs_by_hand(tmp_path):
    found = compare([write(tmp_path / "one", [0, 1, 2]), write(tmp_path / "two", [2, 3])])
    (first,), (second,) = found.scores.values()
    assert (first.wrong, second.wrong, first.examples) == (3, 2, 10)
    assert first.low < 0.7 < first.high
    (pair,) = found.pairs
    assert (pair.first, pair.second, pair.only_first, pair.only_second) == ("A", "B", 1, 2)
    assert pair.p == 1.0  # one head in three throws is no surprise
    assert found.remarks == ()
    assert found.differences == {}


def test_only_what_differs():
    one = {"name": "a", "moe": {"k": 2, "router": "sigmoid"}, "train": {"epochs": 3}}
    other = {"name": "a", "moe": {"k": 1}, "train": {"epochs": 3}}
    assert differences([one, other]) == {"moe.k": ["2", "1"], "moe.router": ["sigmoid", "–"]}


def test_other_data_is_said_and_left_out(tmp_path):
    runs = [write(tmp_path / name, [0]) for name in ("one", "two")]
    clothes = write(tmp_path / "clothes", [0], dataset="fashion_mnist")
    others = write(tmp_path / "others", [0], test="another")
    fewer = write(tmp_path / "fewer", [0], kept=False, test_examples=500)
    found = compare([*runs, clothes, others, fewer])
    assert [run.name for run in found.runs] == ["one", "two"]
    assert found.remarks == (
        "clothes is left out: its data set is fashion_mnist, that of one is mnist.",
        "others is left out: it was tested on 10 other examples of mnist than the 10 of one.",
        "fewer is left out: it was tested on 500 other examples of mnist than the 10 of one.",
    )
    with pytest.raises(UserError, match="no two runs of the same data") as error:
        compare([runs[0], clothes])
    assert len(error.value.sentences) == 2


@pytest.mark.parametrize("without", [0, 1])
def test_a_run_whose_summary_is_gone_is_left_out_of_other_examples_in_a_sentence(tmp_path, without):
    runs = [write(tmp_path / name, [0], test=name) for name in ("one", "two", "three")]
    (runs[without] / "summary.json").unlink()
    with pytest.raises(UserError, match="two is left out: it was tested on 10 other examples of mnist than the 10 of"):
        compare(runs)


def test_an_older_run_has_a_score_and_no_p(tmp_path):
    found = compare([write(tmp_path / "old", [0], kept=False), write(tmp_path / "new", [1])])
    assert list(found.scores) == ["A", "B"]
    assert found.pairs == ()
    (remark,) = found.remarks
    assert remark.startswith("A has no answers to the test examples")


def test_answers_that_are_not_what_was_written_are_said_and_left_out(tmp_path):
    runs = [write(tmp_path / name, [0]) for name in ("one", "two")]
    for run in runs:
        manifest.write(run)
    answers = Predictions(np.arange(10), np.arange(10), "digest")
    (runs[0] / predictions.NAME).write_bytes(predictions.pack(answers))
    found = compare(runs)
    assert found.pairs == ()
    assert found.remarks[0] == "A: predictions.npz is not what was written; it is left out."
    assert found.remarks[1].startswith("A has no answers to the test examples")


def test_an_unfinished_run_shows_what_there_is(tmp_path):
    unfinished = write_run(tmp_path / "cut", "soft", finished=False)
    found = compare([write(tmp_path / "whole", [0]), unfinished])
    assert list(found.scores) == ["A"]
    assert found.remarks[0].startswith("B: This run has no summary")
    assert ["B", "cut", "not tested", "–", "–", "–"] in [list(line) for line in tables(found)[0].lines]


def test_a_run_of_several_tasks_has_a_score_each(tmp_path):
    runs = []
    for name, wrong in (("one", [0, 1]), ("two", [1])):
        run = write(tmp_path / name, [], test_accuracy_of={"digit": 1 - len(wrong) / 10, "odd": 1.0})
        label = np.stack([np.arange(10), np.arange(10) % 2], axis=1)
        prediction = label.copy()
        prediction[wrong, 0] += 1
        (run / predictions.NAME).write_bytes(predictions.pack(Predictions(label, prediction, "x")))
        runs.append(run)
    found = compare(runs)
    assert [(score.task, score.wrong) for score in found.scores["A"]] == [("digit", 2), ("odd", 0)]
    assert [(p.task, p.only_first, p.only_second, p.p) for p in found.pairs] == [
        ("digit", 0, 1, 1.0),
        ("odd", 0, 0, 1.0),
    ]
    assert "task" in tables(found)[0].header


def test_other_devices_are_said(tmp_path):
    runs = [write(tmp_path / name, [0]) for name in ("one", "two")]
    change(runs[1] / "env.json", device="NVIDIA H100")
    (remark,) = compare(runs).remarks
    assert remark == ("Speeds were measured on different devices and cannot be compared: A 1 × cpu, B 1 × NVIDIA H100.")


def test_what_cannot_be_compared_is_told_together(tmp_path):
    run = write(tmp_path / "one", [0])
    with pytest.raises(UserError) as error:
        compare([run, tmp_path / "one" / ".." / "one", tmp_path])
    assert len(error.value.sentences) == 2
    assert "is given twice" in error.value.sentences[0]
    assert "is not a run folder" in error.value.sentences[1]
    with pytest.raises(UserError, match="alone cannot be compared"):
        compare([run])


def test_many_runs_keep_letters_of_their_own(tmp_path):
    runs = [tmp_path / str(i) for i in range(28)]
    for run in runs:
        run.mkdir()
        (run / "config.json").write_text("{}")
    keys = [run.key for run in compare(runs).runs]
    assert (keys[0], keys[25], keys[26], keys[27]) == ("A", "Z", "A2", "B2")


def test_json_holds_numbers_alone(tmp_path):
    found = compare([write(tmp_path / "one", [0, 1, 2]), write(tmp_path / "two", [2, 3])])
    again = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert again["runs"][0]["scores"][0]["wrong"] == 3
    assert again["pairs"][0]["only_second"] == 2


@pytest.mark.parametrize(
    "summary",
    [
        {"test_accuracy": "good", "test_examples": "many", "parameters": None, "notes": "none"},
        {"test_accuracy": 2.0, "test_examples": -3, "dropped": [1]},
        {"test_accuracy_of": {"digit": None, "odd": 1.0}, "test_accuracy": None},
    ],
)
def test_a_summary_that_holds_nonsense_is_passed_over(tmp_path, summary):
    found = compare([write(tmp_path / "one", [0]), write(tmp_path / "two", [0], **summary)])
    assert "A" in found.scores
    assert {table.name for table in tables(found)} >= {"accuracy", "load", "cost"}


def test_answers_of_other_shapes_have_no_p(tmp_path):
    runs = [write(tmp_path / name, [0]) for name in ("one", "two")]
    (runs[1] / predictions.NAME).write_bytes(predictions.pack(Predictions(np.zeros(3, int), np.ones(3, int), "digest")))
    assert compare(runs).pairs == ()


def test_many_runs_have_their_p_in_a_square(tmp_path):
    found = compare([write(tmp_path / str(i), list(range(i))) for i in (0, 1, 5, 6, 8)])
    table = next(table for table in tables(found) if table.name == "pairs")
    assert table.header == ["", "A", "B", "C", "D", "E"]
    # A alone is right on 1, 5, 6, 8 examples, and nothing alone is right: twice 1/2, 1/32, 1/64, 1/256.
    assert table.lines[0] == ["A", "", "1.00", "0.062", "0.031", "0.0078"]
    assert table.lines[-1] == ["E", "", "", "", "", ""]


def test_language_models_are_compared_by_bits_and_without_an_interval(tmp_path):
    runs = [write(tmp_path / name, [0], test_bits_per_byte=bits) for name, bits in (("one", 2.5), ("two", 2.25))]
    for run in runs:
        change(run / "config.json", model={"name": "decoder"})
    found = compare(runs)
    assert found.text_scores == {"A": (2.5, 0.9), "B": (2.25, 0.9)}
    assert (found.scores, found.pairs) == ({}, ())  # tokens of one text are no independent examples
    first, *others = tables(found)
    assert first.header == ["", "run", "bits a byte", "accuracy"]
    assert first.lines == [["A", "one", "2.500", "90.00%"], ["B", "two", "2.250", "90.00%"]]
    assert "no interval and no p" in first.note.lower()
    assert "pairs" not in {table.name for table in others}
    said = found.as_json()
    assert said["interval"] is None
    assert said["runs"][1]["text_score"] == {"bits_per_byte": 2.25, "accuracy": 0.9}
    assert figures.scores(found).axes[0].get_xlabel() == "bits a byte"
