"""A run goes on for more epochs than it had: the schedule is said, lines are kept, cut again it has the same bits."""

import json
import shutil

import pytest
from small_run import StopAfter
from test_fit import NEVER, bits, lines, start

from moejax import run
from moejax.training.fit import Fit
from moejax.training.folder import RunFolder
from moejax.training.progress import Progress


class Quiet(Progress):
    """Keeps what is said."""

    def __init__(self):
        super().__init__()
        self.said = []

    def message(self, text):
        self.said.append(text)


@pytest.fixture(scope="module")
def short(config, dataset, tmp_path_factory):
    """A finished run of two epochs."""
    fit = start(tmp_path_factory.mktemp("runs") / "short", config, dataset)
    assert fit.train(StopAfter(NEVER))
    fit.test()
    return fit.folder.path


@pytest.fixture
def copy(short, tmp_path):
    return shutil.copytree(short, tmp_path / "copy")


def resumed(path, dataset, **train) -> Fit:
    folder, config = RunFolder.open(path)
    fit = Fit(config.replace(train=train), dataset, folder, Quiet())
    fit.resume()
    return fit


def test_a_finished_run_goes_on_and_what_was_said_before_stays(copy, dataset):
    before = lines(copy)
    longer = resumed(copy, dataset, epochs=3)
    assert longer.progress.said[-2:] == [
        "resuming after step 12 of 18",
        "train.epochs is 3 and was 2: from here on the learning rate, and whatever else goes by the share of training"
        " that is done, is that of a run of train.epochs 3; the rate is 0.0028 and would have been 0.",
    ]
    assert not (copy / "summary.json").exists()
    assert json.loads((copy / "config.json").read_text())["train"]["epochs"] == 3
    assert longer.train(StopAfter(NEVER))
    summary = longer.test()
    assert summary["tested_step"] == 18
    now = lines(copy)
    assert now[: len(before)] == before
    assert [(r["kind"], r["step"]) for r in now[len(before) - 1 :]] == [
        *(("test", 12), ("train", 15), ("train", 18), ("validation", 18), ("test", 18))
    ]
    assert now[len(before)]["learning_rate"] == pytest.approx(0.0013, rel=0.05)  # half a cosine of 17 steps after 13
    assert len((copy / "test_metrics.csv").read_text().splitlines()) == 3


@pytest.mark.slow
def test_cut_again_it_has_the_same_bits_and_lines(copy, dataset, tmp_path):
    whole = shutil.copytree(copy, tmp_path / "whole")
    one = resumed(whole, dataset, epochs=4)
    assert one.train(StopAfter(NEVER))
    one.test()

    killed = resumed(copy, dataset, epochs=4)
    killed.log.write("train", 15, loss=1.0, accuracy=0.0)  # before it saved
    stopped = resumed(copy, dataset)
    assert "train.epochs is 4 and was 2" in stopped.progress.said[-1]  # and it says so again
    assert not stopped.train(StopAfter(0))
    last = resumed(copy, dataset)
    assert last.progress.said[-1] == "resuming after step 15 of 24"
    assert last.train(StopAfter(NEVER))
    last.test()
    assert bits(last) == bits(one)
    assert lines(copy) == lines(whole)


@pytest.mark.slow
def test_with_a_constant_rate_two_epochs_and_two_are_four(config, dataset, tmp_path):
    config = config.replace(train=dict(schedule="constant", warmup=0.0))
    four = start(tmp_path / "four", config.replace(train=dict(epochs=4)), dataset)
    four.train(StopAfter(NEVER))
    start(tmp_path / "two", config, dataset).train(StopAfter(NEVER))
    longer = resumed(tmp_path / "two", dataset, epochs=4)
    longer.train(StopAfter(NEVER))
    assert bits(longer) == bits(four)
    assert lines(tmp_path / "two") == lines(tmp_path / "four")


def test_by_the_words_of_the_command_line(copy, dataset, monkeypatch, capsys):
    monkeypatch.setattr(run, "_load", lambda _: dataset)
    assert run.main(["--resume", str(copy), "--train.epochs", "1"]) == 2
    said = capsys.readouterr()
    assert said.err == (
        f"moejax: train.epochs is 1, but {copy} has done 2 epochs; give it more, or start another run.\n"
    )
    assert json.loads((copy / "summary.json").read_text())["tested_step"] == 12  # nothing has changed
    assert run.main(["--resume", str(copy), "--train.epochs", "2"]) == 0
    assert "is finished; its report is" in capsys.readouterr().out
    assert run.main(["--resume", str(copy), "--train.epochs", "some"]) == 2
    assert "train.epochs is some; it must be a whole number" in capsys.readouterr().err
    (copy / "checkpoints").rename(copy / "elsewhere")
    assert run.main(["--resume", str(copy), "--train.epochs", "3"]) == 2
    assert "is finished, and its checkpoints are gone" in capsys.readouterr().err
    (copy / "elsewhere").rename(copy / "checkpoints")
    (copy / "report.html").write_text("old")
    assert run.main(["--resume", str(copy), "--train.epochs=3"]) == 0
    assert "train.epochs is 3 and was 2" in capsys.readouterr().out
    assert json.loads((copy / "summary.json").read_text())["tested_step"] == 18
    assert (copy / "report.html").read_text() != "old"
