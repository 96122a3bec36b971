"""`moejax verify`: what was damaged, lost or added is said of that file; what is whole is ok."""

import json
import shutil

import pytest
from runs.test_model import IMAGE, SPARSE, of_images
from small_run import saved_run

from moejax.__main__ import main
from moejax.config import make_config
from moejax.training.folder import RunFolder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with two checkpoints that is not finished."""
    path = tmp_path_factory.mktemp("runs") / "run"
    saved_run(path, make_config(name="bars", model=IMAGE, moe=SPARSE), of_images(), {1: 0.5, 12: None})
    return path


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


@pytest.fixture
def finished(run):
    (run / "activations").mkdir()
    for name in ("routing.npz", "test_metrics.csv", "activations/epoch_1.csv"):
        (run / name).write_text(name)
    (run / "report.html").write_text("drawn")
    RunFolder(run).write_summary({"test_accuracy": 0.5})
    return run


def found(run, capsys, code):
    assert main(["verify", str(run), "--json"]) == code
    return {one["name"]: (one["state"], one["said"]) for one in json.loads(capsys.readouterr().out)}


def test_a_run_that_goes_on(run, capsys):
    state = found(run, capsys, 0)
    assert state.pop("env.json") == ("not recorded", "the run is not finished")
    files = [len([p for p in (run / "checkpoints" / n).rglob("*") if p.is_file()]) - 1 for n in ("1", "12")]
    assert state == {
        "checkpoints/1": ("ok", f"{files[0]} files, validation accuracy 50.00%"),
        "checkpoints/12": ("ok", f"{files[1]} files"),
        "config.json": ("ok", "can be read"),
        "metrics.jsonl": ("ok", "0 lines"),
    }


def test_a_finished_run_and_its_lines(finished, capsys):
    state = found(finished, capsys, 0)
    assert {name for name, (said, _) in state.items() if said == "ok"} == state.keys()
    assert {"summary.json", "routing.npz", "activations/epoch_1.csv", "checkpoints/12"} <= state.keys()
    assert main(["verify", str(finished)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["ok", "checkpoints/1"]
    assert len(lines) == len(state)


def test_what_is_not_what_was_written_is_said_of_that_file(finished, capsys):
    array = next(p for p in (finished / "checkpoints" / "12").rglob("d/*") if p.is_file())
    array.write_bytes(array.read_bytes()[:-1])
    (finished / "checkpoints" / "12" / "new").write_text("")
    (finished / "checkpoints" / "12" / "data.json").unlink()
    (finished / "checkpoints" / "1" / "sha256.json").write_text("{}")
    (finished / "checkpoints" / "13.partial").mkdir()
    (finished / "config.json").write_text((finished / "config.json").read_text() + " ")
    (finished / "routing.npz").unlink()
    (finished / "notes.csv").write_text("mine")
    (finished / "report.html").write_text("drawn anew")
    state = found(finished, capsys, 1)
    name = array.relative_to(finished).as_posix()
    assert {n: s for n, s in state.items() if s[0] != "ok"} == {
        "checkpoints/1": ("damaged", "has no readable sha256.json"),
        name: ("damaged", "is not what was written"),
        "checkpoints/12/data.json": ("missing", ""),
        "checkpoints/12/new": ("damaged", "was not written by the run"),
        "checkpoints/13.partial": ("set aside", "was not written to its end"),
        "config.json": ("damaged", "is not what was written"),
        "notes.csv": ("not recorded", ""),
        "routing.npz": ("missing", ""),
    }


def test_a_manifest_that_cannot_be_read_records_nothing(finished, capsys):
    (finished / "sha256.json").write_text("[]")
    state = found(finished, capsys, 1)
    assert state["sha256.json"] == ("damaged", "cannot be read; it records the other files")
    assert state["summary.json"] == ("not recorded", "")


def test_a_finished_run_whose_manifest_is_gone_is_not_said_to_be_whole(finished, capsys):
    (finished / "sha256.json").unlink()
    assert found(finished, capsys, 1)["sha256.json"][0] == "missing"


def test_a_run_that_goes_on_has_no_manifest_until_it_ends(finished):
    assert (finished / "sha256.json").exists()
    RunFolder(finished).rewind(b"")
    assert not (finished / "sha256.json").exists()


def test_a_configuration_or_a_log_that_cannot_be_read(run, capsys):
    (run / "config.json").write_text('{"train": {"epochs": 0}}')
    (run / "metrics.jsonl").write_text("{}\n{}\n")
    state = found(run, capsys, 1)
    assert state["config.json"][0] == state["metrics.jsonl"][0] == "damaged"
    assert "train.epochs is 0" in state["config.json"][1]
    (run / "config.json").unlink()
    (run / "metrics.jsonl").unlink()
    state = found(run, capsys, 1)
    assert state["config.json"][0] == state["metrics.jsonl"][0] == "missing"


def test_a_run_without_checkpoints(run, capsys):
    shutil.rmtree(run / "checkpoints")
    assert found(run, capsys, 0)["checkpoints"] == ("not recorded", "there is none yet")
    RunFolder(run).write_summary({"test_accuracy": 0.5})
    assert found(run, capsys, 1)["checkpoints"] == ("missing", "there is none, so nothing can be asked of this run")


def test_no_run_is_a_sentence(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    assert "is not a run folder: it has no config.json" in capsys.readouterr().err
