"""What the studies share (experiments/study.py)."""

import json

import pytest

from experiments import study as shared
from moejax.commandline import configure, parse
from moejax.errors import UserError


@pytest.fixture
def study(monkeypatch, tmp_path):
    monkeypatch.setattr(shared, "ROOT", tmp_path)
    return shared


def test_two_processes_given_the_same_study_share_its_runs(study, monkeypatch, capsys):
    runs, made = [study.Run({"preset": name}, []) for name in "ab"], []

    def collect():
        mine = study.Study("small", lambda rows: f"{len(rows)} rows\n")
        study.collect(mine, runs)
        return mine

    def main_job(words, out):
        made.append(out.name)
        if made == ["a"]:
            collect()  # as another process does, while this one makes the run
        out.mkdir(parents=True)
        (out / "summary.json").write_text(json.dumps({"test_accuracy": 0.5}))
        (out / "env.json").write_text("{}")
        return 1.0

    monkeypatch.setattr(study, "_main_job", main_job)
    filled = collect()
    assert made == ["a", "b"]
    assert "another process makes this run" in capsys.readouterr().out
    assert [row["preset"] for row in filled.rows] == ["b", "a"]
    assert (filled.folder / "table.md").read_text() == "2 rows\n"


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
        study.collect(mine, [study.Run({"preset": "a"}, [])], lambda folder: {"n": len(study.log(folder, "train"))})
    assert mine.rows == []


def test_what_was_not_counted_is_a_dash(study):
    rows = [{"flops_per_example": 2e6}, {"flops_per_example": None}]
    assert study.million(rows, "flops_per_example") == "–"
    assert study.million(rows[:1], "flops_per_example") == "2.00"


def test_a_small_version_says_again_what_the_study_said():
    words = ["--config", "mrpc_mlp", "--moe.hidden", "256", "--seed", "0", "--moe.hidden", "8"]
    expected = ["--config", "mrpc_mlp", "--moe.hidden", "8", "--seed", "0"]
    assert shared.last_of_each(words) == expected


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
