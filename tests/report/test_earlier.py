"""The run before, on a run's page: which it is, what is said of it, and when nothing is."""

import json
import os

import numpy as np
import pytest
from synthetic import write_run

from moejax import predictions
from moejax.predictions import Predictions
from moejax.report.earlier import beside, earlier
from moejax.report.record import read

LABELS = np.arange(10) % 5


def run(folder, at, answers=LABELS, **summary):
    """A run that began at so many seconds and was finished ten seconds later."""
    write_run(folder)
    found = json.loads((folder / "summary.json").read_text()) | {"dataset": "mnist", "test_examples": 10} | summary
    (folder / "summary.json").write_text(json.dumps(found))
    (folder / predictions.NAME).write_bytes(predictions.pack(Predictions(LABELS, answers, "same")))
    for file in folder.iterdir():
        os.utime(file, (at, at))
    os.utime(folder / "summary.json", (at + 10, at + 10))
    return folder


@pytest.fixture
def mine(tmp_path):
    return run(tmp_path / "mine", 100, np.where(LABELS == 1, 0, LABELS), test_accuracy=0.8)


def said(folder) -> str:
    record = read(folder)
    return beside(record, earlier(record))


def test_it_is_the_latest_that_was_finished_when_this_one_began(mine):
    assert earlier(read(mine)) is None
    for name, at in (("old", 10), ("last", 80), ("beside", 95), ("later", 200)):
        run(mine.parent / name, at)
    assert earlier(read(mine)).folder.name == "last"
    run(mine.parent / "other data", 85, dataset="mrpc")
    (run(mine.parent / "damaged", 86) / "config.json").write_text("{")
    os.utime(mine.parent / "damaged" / "summary.json", (96, 96))
    assert earlier(read(mine)).folder.name == "last"


def test_a_run_that_was_tested_on_other_examples_of_the_same_name_is_none(mine):
    last = run(mine.parent / "last", 80)
    (last / predictions.NAME).write_bytes(predictions.pack(Predictions(LABELS, LABELS, "another")))
    os.utime(last / predictions.NAME, (80, 80))
    assert earlier(read(mine)) is None


def test_scores_answers_and_options_stand_beside_each_other(mine):
    last = run(mine.parent / "last <1>", 10, np.where(LABELS > 3, 0, LABELS), test_accuracy=0.81)
    config = json.loads((last / "config.json").read_text())
    (last / "config.json").write_text(json.dumps(config | {"train": {"epochs": 77}}))
    os.utime(last / "config.json", (10, 10))
    page = said(mine)
    assert "80.00%, after 81.00% of the run before, with " in page
    assert ": 2 test examples are right here alone, 2 there alone." in page
    assert "last &lt;1&gt;" in page
    assert '<th scope="row">train.epochs</th>' in page
    assert "<td>77</td>" in page


def test_the_same_answers_are_said_to_be_the_same(mine):
    run(mine.parent / "last", 10, np.where(LABELS == 1, 2, LABELS), test_accuracy=0.8)
    assert "80.00%, as the run before, with the same options, and the same test examples are right.</p>" in said(mine)


def test_with_other_examples_or_none_only_scores_are_told(mine):
    last = run(mine.parent / "last", 10, test_accuracy=0.8)
    (last / predictions.NAME).unlink()
    assert "80.00%, as the run before, with the same options.</p>" in said(mine)
    (mine / "summary.json").unlink()
    assert earlier(read(mine)) is None
