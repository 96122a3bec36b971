"""What the studies share (experiments/study.py)."""

import json
import shutil
import subprocess

import pytest

from experiments import study as shared
from experiments.domains import run as domains
from moejax.commandline import configure, parse
from moejax.config import to_json
from moejax.errors import UserError


@pytest.fixture
def study(monkeypatch, tmp_path):
    monkeypatch.setattr(shared, "ROOT", tmp_path)
    return shared


WORDS = ["--config", "mnist_soft"]


def ended(out):
    """Leave what a run leaves that has ended."""
    out.mkdir(parents=True)
    (out / "summary.json").write_text(json.dumps({"test_accuracy": 0.5}))
    (out / "env.json").write_text("{}")
    return 1.0


def test_two_processes_given_the_same_study_share_its_runs(study, monkeypatch, capsys):
    runs, made = [study.Run({"preset": name}, WORDS) for name in "ab"], []

    def collect():
        mine = study.Study("small", lambda rows: f"{len(rows)} rows\n")
        study.collect(mine, runs)
        return mine

    def main_job(words, out):
        made.append(out.name)
        if made == ["a"]:
            collect()  # as another process does, while this one makes the run
        return ended(out)

    monkeypatch.setattr(study, "_main_job", main_job)
    filled = collect()
    assert made == ["a", "b"]
    assert "another process makes this run" in capsys.readouterr().out
    assert [row["preset"] for row in filled.rows] == ["b", "a"]
    assert (filled.folder / "table.md").read_text() == "2 rows\n"


def test_two_processes_that_measure_by_themselves_keep_each_row_once(study):
    first, second = (study.Study("small", lambda rows: f"{len(rows)} rows\n") for _ in range(2))
    measured, keys = [], [{"model": "a", "seed": seed} for seed in range(3)]

    def measure(missing):
        measured.extend(key["seed"] for key in missing)
        return [{"accuracy": 1.0, "environment": {}} for _ in missing]

    first.fill(keys[:1], "k=1", measure)
    second.fill(keys, "k=1", measure)  # has read before
    first.fill(keys, "k=1", measure)
    assert measured == [0, 1, 2]
    assert [row["seed"] for row in first.rows] == [0, 1, 2]


def test_a_row_of_other_options_is_measured_anew_and_takes_the_others_place(study, monkeypatch):
    made = []

    def main_job(words, out):
        made.append(words)
        shutil.rmtree(out, ignore_errors=True)
        return ended(out)

    monkeypatch.setattr(study, "_main_job", main_job)
    mine = study.Study("small", lambda rows: f"{len(rows)} rows\n")
    for more in ([], [], ["--name", "other"], ["--data.dir", "/elsewhere"], ["--moe.slots", "2"], ["--moe.slots", "2"]):
        study.collect(mine, [study.Run({"seed": 0}, [*WORDS, *more])])
    assert made == [WORDS, [*WORDS, "--moe.slots", "2"]]
    (row,) = mine.rows
    assert "moe.slots=2" in row["environment"]["options"].split()
    assert "train.epochs=4" in row["environment"]["options"].split()  # as the preset says, whatever it says one day


def test_a_run_goes_on_only_where_one_of_its_words_has_begun_and_made_no_row(study, monkeypatch, tmp_path):
    said = []

    def run(command, **_):
        said.append(command[3:5])
        if "--out" in command:
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "config.json").write_text(to_json(configure(parse(command[3:-2]))))
        (tmp_path / "run" / "summary.json").write_text('{"seconds": 1}')
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(study.subprocess, "run", run)
    other = ["--config", "mnist_soft", "--seed", "1"]
    study._main_job(WORDS, tmp_path / "run")
    study._main_job(WORDS, tmp_path / "run")  # whether it has ended or not
    (tmp_path / "run" / study.IN_A_ROW).touch()
    study._main_job(WORDS, tmp_path / "run")  # its row was deleted
    study._main_job(other, tmp_path / "run")
    assert said == [WORDS, ["--resume", str(tmp_path / "run")], WORDS, WORDS]
    assert "--seed" not in WORDS


@pytest.mark.parametrize("name", ["summary.json", "env.json", "metrics.jsonl"])
def test_a_damaged_file_of_a_run_is_one_sentence(study, monkeypatch, tmp_path, name):
    def main_job(words, out):
        out.mkdir(parents=True)
        for file in ("summary.json", "env.json", "metrics.jsonl"):
            (out / file).write_text("[1]\n{}" if file == name else "{}")
        return 1.0

    monkeypatch.setattr(study, "_main_job", main_job)
    mine = study.Study("small", lambda rows: "")
    with pytest.raises(UserError, match=f"{name}.* is not what was written"):
        study.collect(mine, [study.Run({"preset": "a"}, WORDS)], lambda folder: {"n": len(study.log(folder, "train"))})
    assert mine.rows == []


def test_what_was_not_counted_is_a_dash(study):
    rows = [{"flops_per_example": 2e6}, {"flops_per_example": None}]
    assert study.million(rows, "flops_per_example") == "–"
    assert study.million(rows[:1], "flops_per_example") == "2.00"


def test_a_small_version_says_again_what_the_study_said():
    words = ["--config", "mrpc_mlp", "--moe.hidden", "256", "--seed", "0", "--moe.hidden", "8"]
    expected = ["--config", "mrpc_mlp", "--moe.hidden", "8", "--seed", "0"]
    assert shared.last_of_each(words) == expected


@pytest.mark.parametrize("words", [["--seeds", "3"], ["--of", "mnist"], ["--only", "FLOPs"]])
def test_a_small_version_takes_no_words_on_which_runs_it_makes(words, capsys):
    with pytest.raises(SystemExit):
        domains.main(["--quick", *words])
    assert f"--quick makes small runs of its own choice; leave {words[0]} out" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--seeds", "3"], ["--seeds", "0", "--of", "fashion_mnist"]])
def test_curves_that_there_are_not_are_one_sentence(words, capsys, monkeypatch):
    monkeypatch.setattr(domains, "can_load", lambda *_, **__: True)
    with pytest.raises(SystemExit):
        domains.main(["--only", "domains", "FLOPs", *words])
    assert "nothing is left to run; curves (--only domains FLOPs) are of mnist alone" in capsys.readouterr().err


def test_a_recorded_command_names_no_folder_of_a_machine():
    words = ["--data.dir", "/data/here", "--init", f"{shared.ROOT}/runs/dense", "--seed", "0"]
    assert [shared._anywhere(word) for word in words] == ["--data.dir", "DIR", "--init", "runs/dense", "--seed", "0"]


def test_the_command_of_every_recorded_run_is_one_that_can_be_given_again():
    commands = set()
    for file in (shared.ROOT / "experiments").glob("*/results.json"):
        commands |= {row["environment"].get("command", "") for row in json.loads(file.read_text())}
    runs = [command.partition(" moejax.run ")[2].split() for command in commands if " moejax.run " in command]
    assert len(runs) > 100
    for words in runs:
        configure(parse(words))
        assert not any(word.startswith("/") for word in words), "a machine's folder"


def test_every_recorded_run_had_the_options_that_its_command_means_today():
    """Where this fails a preset has changed: give the study's command once more, and it measures these rows anew."""
    for file in (shared.ROOT / "experiments").glob("*/results.json"):
        for row in json.loads(file.read_text()):
            command = row["environment"].get("command", "")
            if " moejax.run " in command:
                words = command.partition(" moejax.run ")[2].split()
                then = row["environment"].get("settings_of_the_preset_then", "").split()  # typed beside another preset
                assert row["environment"]["options"] == shared.meaning([*then, *words]), (file.parent.name, command)
